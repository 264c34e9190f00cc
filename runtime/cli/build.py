"""`runtime build` and `runtime deploy`: what a device and a serving stack run a model from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.runtime.cli.options import FoldedFile, Json
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.system.command import print_report
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.program import abandon
from foldcam.runtime.system.text import printable

if TYPE_CHECKING:
    from foldcam.runtime.engine.builder import Built
    from foldcam.runtime.engine.options import BuildOptions


class PrecisionChoice(str, Enum):
    """Which precision an engine has."""

    file = "file"
    auto = "auto"


class FlavourChoice(str, Enum):
    """Which TensorRT builds."""

    auto = "auto"
    tensorrt = "tensorrt"
    rtx = "rtx"


class PlatformChoice(str, Enum):
    """What runs the model in Triton."""

    onnx = "onnx"
    tensorrt = "tensorrt"


def build(
    model: FoldedFile,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Writes the engine to this file.", show_default="MODEL.engine beside the model"
        ),
    ] = None,
    flavour: Annotated[
        FlavourChoice,
        typer.Option(
            help="Chooses which TensorRT builds; auto takes tensorrt where it is installed, else "
            "tensorrt_rtx."
        ),
    ] = FlavourChoice.auto,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Makes the engine fast at these batch sizes, such as 1,4,8; any up to the largest "
            "will run.",
            show_default="1",
        ),
    ] = None,
    min_batch: Annotated[
        int | None,
        typer.Option(
            help="Sets the smallest batch of one range of sizes, in place of --batch.",
            min=1,
            show_default="1",
        ),
    ] = None,
    opt_batch: Annotated[
        int | None,
        typer.Option(
            help="Sets the batch size of that range at which the engine is fastest.",
            min=1,
            show_default="the smallest",
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Sets the largest batch of that range.", min=1, show_default="no range is built"
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            help="Limits the scratch memory of the build, in MiB.",
            min=1,
            show_default="a share of what is free",
        ),
    ] = None,
    dla: Annotated[
        int | None,
        typer.Option(
            help="Runs the engine on the DLA core of this number.", min=0, show_default="the GPU"
        ),
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            help="Builds for GPUs of these compute capabilities, such as 8.9 (rtx only).",
            show_default="8.0 and later",
        ),
    ] = None,
    timing_cache: Annotated[
        bool, typer.Option(help="Keeps the measured kernels for the next build.")
    ] = True,
    precision: Annotated[
        PrecisionChoice,
        typer.Option(
            help="Chooses the precision: file builds the model's own; auto builds birds.fp16.onnx "
            "and birds.int8.onnx beside birds.onnx as well, and keeps the fastest whose answers "
            "pass the gate on --images."
        ),
    ] = PrecisionChoice.file,
    candidate: Annotated[
        list[Path] | None,
        typer.Option(
            help="Tries this model of another precision with --precision auto; may be repeated.",
            show_default="those beside the model",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Judges --precision auto on the photographs of this folder, as runtime gate does.",
            show_default="none",
        ),
    ] = None,
    accept_wrong: Annotated[
        bool,
        typer.Option(
            "--accept-wrong",
            help="Writes an engine that answers the model's probe pictures wrongly, with a "
            "warning.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Compile a folded model into an engine for the GPU of this device.

    Precision is the file's: what was exported with --precision fp16 is built as fp16. With
    --precision auto several files are built, and the fastest is kept that passes the gate;
    exit status 3 and no engine if none does.

    Before an engine is written it is shown the model's probe pictures, and refused if it answers
    wrongly.

    Example: runtime build birds.onnx --batch 1,4

    Example: runtime build birds.onnx --precision auto --images photos/
    """
    from foldcam.runtime.backends.tensorrt.building import build_tried_engine
    from foldcam.runtime.contract.onnx_file import read_contract
    from foldcam.runtime.engine.builder import engine_path
    from foldcam.runtime.engine.flavours import find_flavour
    from foldcam.runtime.engine.manifest import manifest_path
    from foldcam.runtime.engine.options import MIB, BuildOptions, parse_capabilities, profiles_for
    from foldcam.runtime.engine.progress import BuildLine

    try:
        profiles = _profiles(batch, min_batch, opt_batch, max_batch)
        options = BuildOptions(
            profiles=profiles or profiles_for([1]),
            workspace=None if workspace is None else workspace * MIB,
            dla_core=dla,
            compute_capabilities=parse_capabilities(compute_capability)
            if compute_capability
            else (),
            timing_cache=timing_cache,
        )
    except FoldcamError as error:
        raise typer.BadParameter(str(error)) from error
    candidates, engine = tuple(candidate or ()), out or engine_path(model)
    outputs = [engine, manifest_path(engine)]
    if images is not None:
        outputs.append(engine.with_suffix(".gate.json"))
    check_outputs(
        [
            Read("MODEL", model),
            *(Read("--candidate", path) for path in candidates),
            Read("--images", images),
        ],
        [Written("--out", path) for path in outputs],
    )
    if precision is PrecisionChoice.auto:
        if images is None:
            raise typer.BadParameter("--precision auto needs --images.")
        if accept_wrong:
            raise typer.BadParameter("--accept-wrong is for --precision file.")
        _build_fastest(model, candidates, images, engine, options, flavour, json)
        return
    if candidates or images is not None:
        raise typer.BadParameter("--candidate and --images need --precision auto.")
    # That the model is none can be said before TensorRT is loaded, which takes seconds.
    read_contract(model)
    found = find_flavour(flavour.value)
    with _abandonable():
        built = build_tried_engine(
            model, engine, options, found, line=BuildLine(), accept_wrong=accept_wrong
        )
    print_report(_document(built), _text(built), json)


def _profiles(batch: str | None, low: int | None, best: int | None, high: int | None) -> Any:
    from foldcam.runtime.engine.options import Profile, parse_sizes, profiles_for

    if batch is not None:
        if (low, best, high) != (None, None, None):
            raise typer.BadParameter("give --batch, or --min-batch, --opt-batch and --max-batch.")
        return profiles_for(parse_sizes(batch))
    if (low, best, high) == (None, None, None):
        return None
    if high is None:
        raise typer.BadParameter("--min-batch and --opt-batch need --max-batch.")
    return (Profile(low or 1, best or low or 1, high),)


@contextmanager
def _abandonable() -> Iterator[None]:
    """End the process where the user stops a build.

    Nothing is half written, and the interpreter's own end would free what the builder's thread
    still uses.
    """
    from foldcam.runtime.engine.progress import BuildAbandonedError

    try:
        yield
    except BuildAbandonedError:
        abandon()


def _build_fastest(
    model: Path,
    candidates: tuple[Path, ...],
    images: Path,
    out: Path,
    options: BuildOptions,
    flavour: FlavourChoice,
    json: bool,
) -> None:
    from foldcam.runtime.contract.onnx_file import read_contract
    from foldcam.runtime.engine.device import find_gpu
    from foldcam.runtime.engine.flavours import find_flavour
    from foldcam.runtime.engine.progress import BuildLine
    from foldcam.runtime.measurement.comparison.fastest_engine import (
        FastestOptions,
        build_fastest,
        candidates_beside,
        fastest_text,
    )
    from foldcam.runtime.system.files import write_document
    from foldcam.runtime.system.standard_streams import ProgressLine

    read_contract(model)
    fastest = FastestOptions(model, candidates or candidates_beside(model), images, out, options)
    if find_gpu() is None:
        raise FoldcamError(
            "--precision auto runs what it builds, and the driver finds no NVIDIA GPU here: build "
            "on the device."
        )
    with _abandonable(), ProgressLine() as progress:
        document = build_fastest(
            fastest, find_flavour(flavour.value), line=BuildLine(), progress=progress
        )
    write_document(out.with_suffix(".gate.json"), document)
    print_report(document, fastest_text(document), json, document["report"]["passed"])


def _document(built: Built) -> dict[str, Any]:
    from foldcam.runtime.engine.inspect import manifest_record
    from foldcam.runtime.engine.manifest import manifest_path

    return {
        "engine": str(built.engine),
        "manifest": str(manifest_path(built.engine)),
        "bytes": built.manifest.plan.bytes,
        **manifest_record(built.manifest),
        "notes": built.notes,
        "accepted_wrong": built.accepted_wrong,
    }


def _text(built: Built) -> str:
    from foldcam.runtime.engine.inspect import engine_rows, manifest_record
    from foldcam.runtime.engine.manifest import manifest_path

    rows = [row for row in engine_rows(manifest_record(built.manifest)) if row[0] != "built from"]
    rows += [("note", note) for note in built.notes]
    rows.append(("WARNING", built.accepted_wrong or ""))
    rows.append(("wrote", f"{built.engine} ({built.manifest.plan.bytes / 1e6:.1f} MB)"))
    rows.append(("wrote", str(manifest_path(built.engine))))
    return "\n".join(f"{name:14}{printable(value)}" for name, value in rows if value)


def deploy(
    model: FoldedFile,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Writes the model into this model repository of Triton Inference Server.",
            show_default="none",
        ),
    ] = None,
    deepstream: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Writes a secondary nvinfer of DeepStream into a folder here: its configuration, "
            "the model, and a probe that reads label, similarity and map.",
            show_default="none",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Sets the name of the served model.", show_default="the file's"),
    ] = None,
    platform: Annotated[
        PlatformChoice,
        typer.Option(
            help="Chooses what runs the model in Triton: ONNX Runtime, or TensorRT with an engine "
            "that is built on the server's machine by the command in the README."
        ),
    ] = PlatformChoice.onnx,
    max_batch: Annotated[
        int,
        typer.Option(help="Limits the number of images that share a pass.", min=1, max=1024),
    ] = 8,
    delay: Annotated[
        int,
        typer.Option(
            help="Sets how many microseconds a picture waits for others to share a pass with.",
            min=0,
            max=1_000_000,
        ),
    ] = 500,
    json: Json = False,
) -> None:
    """Write what a serving stack needs to run a folded model.

    Example: runtime deploy birds.onnx --triton models/ --platform tensorrt

    Example: runtime deploy birds.onnx --deepstream pipeline/
    """
    from foldcam.runtime.engine.deploy.deepstream import DeepStreamOptions, write_deepstream
    from foldcam.runtime.engine.deploy.triton import TritonOptions, write_repository

    if triton is None and deepstream is None:
        raise typer.BadParameter("give --triton DIR or --deepstream DIR.")
    written: dict[str, str] = {}
    if triton is not None:
        options = TritonOptions(platform.value, name, max_batch, delay)
        written["triton"] = str(write_repository(model, triton, options))
    if deepstream is not None:
        folder, note = write_deepstream(model, deepstream, DeepStreamOptions(name, max_batch))
        written["deepstream"] = str(folder)
        print(f"note: {note}", file=sys.stderr)
    print_report(written, "\n".join(f"wrote {path}" for path in written.values()), json)
