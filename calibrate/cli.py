"""`foldcam calibrate`: INT8 behind a gate."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldcam.export.commands.options import DeviceText, Json, choice, device_of
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, keep_network
from foldcam.runtime.system.command import print_json, say
from foldcam.runtime.system.errors import ExitStatus, FoldcamError
from foldcam.runtime.system.files import hidden_beside
from foldcam.runtime.system.text import printable

if TYPE_CHECKING:
    from foldcam.calibrate.calibrator import Outcome

app = typer.Typer(no_args_is_help=True)


@app.command(
    epilog="Example: foldcam calibrate birds.onnx --images CUB_200_2011 --out birds.int8.onnx"
)
def calibrate(
    model: Annotated[
        Path,
        typer.Argument(help="Names the folded float32 model to quantize.", metavar="MODEL.onnx"),
    ],
    images: Annotated[
        Path,
        typer.Option(
            help="Reads labelled images like those of the device from class folders, a CSV, or a "
            "CUB-200-2011 folder. A training part calibrates and a test part judges; data without "
            "parts are dealt out to both."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Writes the INT8 model to this file, if it passes the gate.")
    ],
    target: Annotated[
        str,
        typer.Option(
            help="Chooses what runs the model: tensorrt writes int8 as every TensorRT from 8.6 on "
            "takes it; cpu writes uint8 activations for ONNX Runtime, and measures the speed here."
        ),
    ] = "tensorrt",
    method: Annotated[
        str,
        typer.Option(
            help="Chooses how ranges are cut: minmax, percentile, entropy or mse; auto takes, for "
            "each activation, the one that changes the answers least."
        ),
    ] = "auto",
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            help="Keeps layers in float: auto keeps the fewest with which the gate passes, none "
            "keeps none, and a name keeps that layer (may be repeated).",
            show_default="auto",
        ),
    ] = None,
    bias_correction: Annotated[
        bool,
        typer.Option(
            help="Tries bias correction, and keeps it if the answers are nearer to the float ones."
        ),
    ] = True,
    gptq: Annotated[
        bool,
        typer.Option(
            help="Tries GPTQ, which rounds weights so that their errors cancel, and keeps it if "
            "the answers are nearer to the float ones."
        ),
    ] = True,
    float_type: Annotated[
        str,
        typer.Option(
            "--float",
            help="Sets the type of layers that stay float, of attention and of softmax: fp32, or "
            "fp16 for TensorRT.",
        ),
    ] = "fp32",
    count: Annotated[
        int, typer.Option(help="Limits the number of images to calibrate on.", min=8)
    ] = 128,
    choice_images: Annotated[
        int, typer.Option(help="Limits the number of images to choose layers by.", min=8)
    ] = 128,
    gate_images: Annotated[
        int, typer.Option(help="Limits the number of images to judge by.", min=8)
    ] = 256,
    device: DeviceText = "auto",
    seed: Annotated[int, typer.Option(help="Sets the seed by which the images are drawn.")] = 0,
    recall_lost: Annotated[
        float, typer.Option(help="Sets the greatest loss of recall@1 that passes, in points.")
    ] = 1.0,
    heatmap_mean: Annotated[
        float, typer.Option(help="Sets the least mean correlation of the heatmaps that passes.")
    ] = 0.98,
    heatmap_p5: Annotated[
        float,
        typer.Option(
            help="Sets the least correlation of the heatmaps that passes at the 5th percentile."
        ),
    ] = 0.9,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Keeps the results of long steps for a later run in this folder.",
            show_default="beside --out",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Quantize a folded model to int8; status 3 and no model if it costs too much."""
    from foldcam.calibrate.calibrator import CalibrationOptions
    from foldcam.calibrate.calibrator import calibrate as run
    from foldcam.calibrate.placement import TARGETS
    from foldcam.calibrate.report import document
    from foldcam.calibrate.statistics import METHODS, Store
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.runtime.contract.schema import PRECISIONS
    from foldcam.runtime.measurement.comparison.verdict import GateLimits

    chosen_target = choice("--target", target, TARGETS)
    chosen_method = None if method == "auto" else choice("--method", method, METHODS)
    kept = tuple(keep_float or ("auto",))
    if len(kept) > 1 and {"auto", "none"} & set(kept):
        raise typer.BadParameter("--keep-float auto and none cannot be joined with names.")
    chosen_float = choice("--float", float_type, PRECISIONS)
    if chosen_float == "fp16" and chosen_target == "cpu":
        raise typer.BadParameter("--float fp16 needs --target tensorrt: CPUs have no such kernels.")
    if out.suffix != ".onnx":
        raise FoldcamError(f"--out {out}: an INT8 model is an .onnx file.")
    report, page = _reports(out)
    check_outputs(
        [Read("MODEL", model), Read("--images", images)],
        [Written("--out", path) for path in (out, report, page)],
    )
    keep_network("--out", out)
    options = CalibrationOptions(
        count=count,
        choice_count=choice_images,
        gate_count=gate_images,
        seed=seed,
        method=chosen_method,
        keep_float=kept,
        correct_biases=bias_correction,
        gptq=gptq,
        target=chosen_target,
        float_type=chosen_float,
        limits=GateLimits(
            recall_lost=recall_lost / 100,
            heatmap_correlation_mean=heatmap_mean,
            heatmap_correlation_p5=heatmap_p5,
        ),
    )
    store = Store(cache or hidden_beside(out, "calibration"))
    place = device_of(device)
    try:
        with ProgressBar() as progress:
            outcome = run(model, images, options, store=store, progress=progress, device=place)
    except KeyboardInterrupt:
        if store.folder is not None and store.folder.is_dir():
            say(f"What was found is kept in {store.folder}: the same command goes on from it.")
        raise
    files = _write(outcome, out)
    if as_json:
        print_json({**document(outcome), "files": [str(path) for path in files]})
    else:
        _print(outcome, files)
    if not outcome.passed:
        raise typer.Exit(ExitStatus.GATE_FAILED)


def _write(outcome: Outcome, out: Path) -> list[Path]:
    import onnx

    from foldcam.calibrate.report import write_json, write_page
    from foldcam.runtime.system.files import atomic_path

    written = []
    if outcome.passed:
        with atomic_path(out) as temporary:
            onnx.save(outcome.model, temporary)
        written.append(out)
    else:
        # One of an earlier run would be taken for this one's.
        _remove_calibrated(out)
    report, page = _reports(out)
    write_json(report, outcome)
    write_page(page, outcome, out.name)
    return [*written, report, page]


def _reports(out: Path) -> tuple[Path, Path]:
    """The files of the report beside the model."""
    return out.with_suffix(".report.json"), out.with_suffix(".report.html")


def _remove_calibrated(out: Path) -> None:
    """Remove an INT8 model, and nothing else that may have its name."""
    from foldcam.runtime.contract.onnx_file import is_folded, read_contract

    with suppress(FoldcamError):
        if is_folded(out) and read_contract(out).calibration is not None:
            out.unlink(missing_ok=True)


def _print(outcome: Outcome, files: list[Path]) -> None:
    for note in outcome.report["data_notes"]:
        print(f"note: {printable(note)}")
    from foldcam.calibrate.report import LADDER_HEAD, figure_lines, ladder_lines, ladder_note

    for what, value in figure_lines(outcome):
        print(f"  {what:24} {value}")
    print(f"\n{ladder_note(outcome)}")
    table = [LADDER_HEAD, *ladder_lines(outcome)]
    widths = [max(len(line[place]) for line in table) for place in range(len(LADDER_HEAD))]
    for line in table:
        print("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
    if outcome.chosen.kept:
        print(f"  kept in float: {', '.join(outcome.chosen.kept)}")
    for path in files:
        print(f"  {path}")
    print("passed" if outcome.passed else f"FAILED: {'; '.join(outcome.failures)}")
