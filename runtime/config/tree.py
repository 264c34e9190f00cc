"""Everything that a run can be asked, as one typed value.

    >>> from foldcam.runtime.config import OutputOptions, RunConfig, SourceConfig
    >>> RunConfig(sources=(SourceConfig(camera=0),), output=OutputOptions(jsonl="out.jsonl"))

Flags and TOML files are read into it by `runtime.config.loading`; `runtime.config.keys` says
what each key means.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from foldcam.runtime.drawing.style import Style
from foldcam.runtime.events.rule import EventRule
from foldcam.runtime.options import FlowOptions, RegionOptions, ServeOptions, SourceOptions
from foldcam.runtime.output_options import OutputOptions, RecordingOptions
from foldcam.runtime.system.logs import LogFormat, LogLevel

BackendName = Literal["auto", "tensorrt", "onnxruntime"]
ProviderName = Literal["auto", "cpu", "cuda", "tensorrt", "rtx"]


@dataclass(frozen=True)
class ModelOptions:
    """What runs, and on what.

    Attributes:
        path: a folded `.onnx` or its `.engine`; None looks for one.
        server: the address of the model on an inference server that runs it; None runs it here.
        backend: the library; None takes TensorRT for an engine, else ONNX Runtime.
        provider: what ONNX Runtime computes on.
        threads: on the CPU; None leaves it to the library.
        cuda_graph: whether runs on a GPU are captured; None does so in TensorRT alone.
        build: whether a missing engine may be built.
        accept_wrong: whether a library runs that answers the probe pictures wrongly.
        unknown: whether an image may be unknown, by the model's rule or the next number.
        unknown_below: similarity below which it is, in place of the model's rule; None for that.
        gallery: the pictures of the bank's rows; None takes the file beside the model, if any.
    """

    path: str | None = None
    backend: BackendName | None = None
    provider: ProviderName = "auto"
    threads: int | None = None
    cuda_graph: bool | None = None
    build: bool = False
    accept_wrong: bool = False
    unknown: bool = True
    unknown_below: float | None = None
    gallery: str | None = None
    server: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class SourceConfig(SourceOptions):
    """One source and how its pictures are got. Exactly one of the first three is given.

    Attributes:
        camera: number of a camera of this machine.
        file: an image, a folder, a pattern, or a video.
        uri: a path, `/dev/videoN`, or an address; never shown with its credentials.
    """

    camera: int | None = None
    file: str | None = None
    uri: str | None = field(default=None, repr=False)

    @property
    def options(self) -> SourceOptions:
        """Without the address."""
        return SourceOptions(
            **{each.name: getattr(self, each.name) for each in fields(SourceOptions)}
        )


@dataclass(frozen=True)
class ServeConfig(ServeOptions):
    """The live page.

    Attributes:
        token_file: holds the token, on its first line; as an alternative to
            `FOLDCAM_TOKEN` in the environment.
    """

    token_file: str | None = None


@dataclass(frozen=True)
class LogOptions:
    """What is said on standard error.

    Attributes:
        format: of log lines.
        level: below which nothing is said.
        status: whether there is a status line.
    """

    format: LogFormat = "text"
    level: LogLevel = "info"
    status: bool = True


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
