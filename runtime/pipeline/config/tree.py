"""Everything that a run can be asked, as one typed value.

    >>> from foldcam.runtime.pipeline.config import OutputOptions, RunConfig, SourceConfig
    >>> RunConfig(sources=(SourceConfig(camera=0),), output=OutputOptions(jsonl="out.jsonl"))

Flags and TOML files are read into it by `loading`; what each key means, and its range, stands at
its field.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from msgspec import Meta

from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions
from foldcam.runtime.sources.options import FlowOptions, RegionOptions, ServeOptions, SourceOptions
from foldcam.runtime.system.key import key
from foldcam.runtime.system.logs import LogFormat, LogLevel

BackendName = Literal["auto", "tensorrt", "onnxruntime"]
ProviderName = Literal["auto", "cpu", "cuda", "tensorrt", "rtx"]


@dataclass(frozen=True)
class ModelOptions:
    """What runs, and on what."""

    path: str | None = key(
        None, "The folded model (.onnx) or engine (.engine) that runs.", example='"model.onnx"'
    )
    backend: BackendName | None = key(
        None,
        "Chooses the library that runs the model. By default an .engine runs in TensorRT and an "
        ".onnx in ONNX Runtime; auto tries TensorRT, CUDA and the CPU in this order and "
        "reports its choice.",
        "--backend",
        '"auto"',
    )
    provider: ProviderName = key(
        "auto",
        "Chooses what ONNX Runtime computes on. auto takes CUDA where it works and the CPU "
        "otherwise; tensorrt is ONNX Runtime's own TensorRT provider, and rtx its plugin for "
        "TensorRT-RTX, where that is installed.",
        "--provider",
    )
    threads: Annotated[int, Meta(ge=1, le=4096)] | None = key(
        None, "Limits the number of CPU threads; by default the library decides.", "--threads", "2"
    )
    cuda_graph: bool | None = key(
        None,
        "Captures GPU runs as a CUDA graph and replays them; by default only in TensorRT.",
        "--cuda-graph/--no-cuda-graph",
        "true",
    )
    build: bool = key(
        False, "Lets backend tensorrt build a missing engine, which takes minutes.", "--build"
    )
    accept_wrong: bool = key(
        False,
        "Runs a model or engine that answers its probe pictures wrongly on this machine, with a "
        "warning each time, in place of refusing it.",
        "--accept-wrong",
    )
    unknown: bool = key(
        True,
        "Answers unknown where the model's rule says so, which `foldcam threshold` chooses; "
        "without it, the nearest label is the answer however far it is.",
        "--unknown/--no-unknown",
    )
    unknown_below: Annotated[float, Meta(ge=-1, le=1)] | None = key(
        None,
        "Answers unknown below this similarity, a cosine from -1 to 1, in place of the model's "
        "rule.",
        "--unknown-below",
        "0.6",
    )
    gallery: str | None = key(
        None,
        "Takes the pictures of the bank's rows from this gallery, for --beside, --report and "
        "--serve (default: MODEL.gallery beside the model, where there is one).",
        "--gallery",
        '"model.gallery"',
    )
    server: str | None = key(
        None,
        "Runs the model on an inference server (KServe v2 over HTTP, such as Triton) that has the "
        "same file, see `runtime deploy`; without a name in the address it has the file's.",
        "--server",
        '"http://host:8000/birds"',
        secret=True,
    )


@dataclass(frozen=True)
class SourceConfig(SourceOptions):
    """One source and how its pictures are got. Exactly one of the first three is given."""

    camera: Annotated[int, Meta(ge=0, le=255)] | None = key(
        None, "Opens a camera of this machine by its number.", example="0"
    )
    file: str | None = key(
        None, "Reads an image, a folder, a pattern, or a video.", example='"photos/*.jpg"'
    )
    uri: str | None = key(
        None,
        "Opens a path, /dev/videoN, or an address such as rtsp://camera/stream.",
        example='"rtsp://user:password@camera/stream"',
        secret=True,
    )

    @property
    def options(self) -> SourceOptions:
        """Without the address."""
        return SourceOptions(
            **{each.name: getattr(self, each.name) for each in fields(SourceOptions)}
        )


@dataclass(frozen=True)
class ServeConfig(ServeOptions):
    """The live page."""

    token_file: str | None = key(
        None,
        "Reads the token that viewers need from this file (default: FOLDCAM_TOKEN, if set).",
        "--token-file",
        '"token.txt"',
    )


@dataclass(frozen=True)
class LogOptions:
    """What is said on standard error."""

    format: LogFormat = key("text", "Chooses the format of log lines.", "--log-format")
    level: LogLevel = key("info", "Leaves out log messages below this level.", "--log-level")
    status: bool = key(True, "Shows a status line.")


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        model, flow, regions, style, output, recording, log: see there.
        sources: one or several.
        events: the rules.
        serve: None for no live page.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    sources: tuple[SourceConfig, ...] = ()
    flow: FlowOptions = field(default_factory=FlowOptions)
    regions: RegionOptions = field(default_factory=RegionOptions)
    style: Style = field(default_factory=Style)
    output: OutputOptions = field(default_factory=OutputOptions)
    recording: RecordingOptions = field(default_factory=RecordingOptions)
    events: tuple[EventRule, ...] = ()
    serve: ServeConfig | None = None
    log: LogOptions = field(default_factory=LogOptions)
