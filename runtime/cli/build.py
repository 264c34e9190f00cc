"""`runtime build`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.errors import ExitStatus, FoldcamError
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


def build(
    model: Annotated[Path, typer.Argument(help="A folded model (.onnx).", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The engine; beside the model unless given.", show_default=False),
    ] = None,
    flavour: Annotated[
        FlavourChoice,
        typer.Option(help="Which TensorRT; auto takes tensorrt, else tensorrt_rtx."),
    ] = FlavourChoice.auto,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Batch sizes to be fast at, such as 1,4,8: any up to the largest will run. "
            "[default: 1]",
            show_default=False,
        ),
    ] = None,
    min_batch: Annotated[
        int | None, typer.Option(help="One range of batch sizes: from.", min=1)
    ] = None,
    opt_batch: Annotated[int | None, typer.Option(help="... fastest at.", min=1)] = None,
    max_batch: Annotated[int | None, typer.Option(help="... to.", min=1)] = None,
    workspace: Annotated[
        int | None,
        typer.Option(help="Scratch memory in MiB; a share of what is free unless given.", min=1),
    ] = None,
    dla: Annotated[
        int | None, typer.Option(help="Run on this DLA core of the device.", min=0)
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="GPUs to build for, such as 8.9 (rtx only). [default: 8.0 and later]"),
    ] = None,
    timing_cache: Annotated[
        bool, typer.Option(help="Keep measured kernels for the next build.")
    ] = True,
    precision: Annotated[
        PrecisionChoice,
        typer.Option(
            help="file: the model's own. auto: of birds.fp16.onnx and birds.int8.onnx beside "
            "birds.onnx the fastest whose answers pass the gate on --images."
        ),
    ] = PrecisionChoice.file,
    candidate: Annotated[
        list[Path] | None,
        typer.Option(help="For --precision auto: models of other precisions, other names."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="For --precision auto: photographs, see `runtime gate --help`."),
    ] = None,
    accept_wrong: Annotated[
        bool,
        typer.Option(
            "--accept-wrong",
            help="Write an engine that answers the model's probe pictures wrongly, with a warning.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
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
    from foldcam.runtime.engine.options import MIB, BuildOptions, parse_capabilities, profiles_for

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
    _check_files(model, tuple(candidate or ()), images, out)
    if precision is PrecisionChoice.auto:
        if images is None:
            raise typer.BadParameter("--precision auto needs --images.")
        if accept_wrong:
            raise typer.BadParameter("--accept-wrong is for --precision file.")
        _build_fastest(model, tuple(candidate or ()), images, out, options, flavour, json)
        return
    if candidate or images is not None:
        raise typer.BadParameter("--candidate and --images need --precision auto.")
    built = _build(model, out, options, flavour, accept_wrong)
    if json:
        print_json(_document(built))
    else:
        print_text(_text(built))


def _check_files(
    model: Path, candidates: tuple[Path, ...], images: Path | None, out: Path | None
) -> None:
    from foldcam.runtime.engine.builder import engine_path
    from foldcam.runtime.engine.manifest import manifest_path

    engine = out or engine_path(model)
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


def _build(
    model: Path, out: Path | None, options: BuildOptions, flavour: FlavourChoice, accept_wrong: bool
) -> Built:
    from foldcam.runtime.backends.tensorrt.building import build_tried_engine
    from foldcam.runtime.contract.onnx_file import read_contract
    from foldcam.runtime.engine.builder import engine_path
    from foldcam.runtime.engine.flavours import find_flavour
    from foldcam.runtime.engine.progress import BuildAbandonedError, BuildLine

    # That the model is none can be said before TensorRT is loaded, which takes seconds.
    read_contract(model)
    found = find_flavour(flavour.value)
    try:
        return build_tried_engine(
            model, out or engine_path(model), options, found,
            line=BuildLine(), accept_wrong=accept_wrong,
        )  # fmt: skip
    except BuildAbandonedError:
        # Nothing is half written, and the interpreter's own end would free what the builder's
        # thread still uses.
        abandon()


def _build_fastest(
    model: Path,
    candidates: tuple[Path, ...],
    images: Path,
    out: Path | None,
    options: BuildOptions,
    flavour: FlavourChoice,
    json: bool,
) -> None:
    from foldcam.runtime.contract.onnx_file import read_contract
    from foldcam.runtime.engine.builder import engine_path
    from foldcam.runtime.engine.device import find_gpu
    from foldcam.runtime.engine.flavours import find_flavour
    from foldcam.runtime.engine.progress import BuildAbandonedError, BuildLine
    from foldcam.runtime.measurement.comparison.fastest_engine import (
        FastestOptions,
        build_fastest,
        candidates_beside,
        fastest_text,
    )
    from foldcam.runtime.system.files import write_document
    from foldcam.runtime.system.standard_streams import ProgressLine

    read_contract(model)
    fastest = FastestOptions(
        model, candidates or candidates_beside(model), images, out or engine_path(model), options
    )
    if find_gpu() is None:
        raise FoldcamError(
            "--precision auto runs what it builds, and the driver finds no NVIDIA GPU here: build "
            "on the device."
        )
    try:
        with ProgressLine() as progress:
            document = build_fastest(
                fastest, find_flavour(flavour.value), line=BuildLine(), progress=progress
            )
    except BuildAbandonedError:
        # Nothing is half written, and the interpreter's own end would free what the builder's
        # thread still uses.
        abandon()
    write_document(fastest.out.with_suffix(".gate.json"), document)
    if json:
        print_json(document)
    else:
        print_text(fastest_text(document))
    if not document["report"]["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)


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
