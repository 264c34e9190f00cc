"""`foldcam demo` and `foldcam evaluate`: flags turned into calls of public functions."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli_support import print_json
from runtime.errors import ExitStatus

if TYPE_CHECKING:
    from benchmarks.demo.run import DemoReport

app = typer.Typer(no_args_is_help=True)
evaluate = typer.Typer(no_args_is_help=True, help="Measure a folded model on labelled images.")
app.add_typer(evaluate, name="evaluate")


@app.command(epilog="Example: foldcam demo --out demo-output")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="Of views and scenes.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """The main job, end to end, on photographs that a package carries."""
    from benchmarks.demo.run import run_demo

    report = run_demo(out, lambda line: print(line, file=sys.stderr, flush=True), seed)
    if as_json:
        print_json(report.document())
    else:
        _print_demo(report)
    if not report.verified.passed:
        raise typer.Exit(ExitStatus.GATE_FAILED)


@evaluate.command(
    epilog="Example: foldcam evaluate retrieval birds.onnx --images CUB_200_2011 --split test"
)
def retrieval(
    model: Annotated[Path, typer.Argument(help="A folded model.", metavar="MODEL.onnx")],
    images: Annotated[Path, typer.Option(help="Labelled images that are not in the bank.")],
    split: Annotated[str, typer.Option(help="train, test or all.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """The share of images whose nearest bank row has the right label."""
    from benchmarks.retrieval import evaluate_retrieval, load_folded
    from export.datasets import SPLITS, load_dataset
    from export.progress import ProgressBar

    chosen = next((known for known in SPLITS if known == split), None)
    if chosen is None:
        raise typer.BadParameter(f"--split {split!r} is not one of {', '.join(SPLITS)}.")
    dataset = load_dataset(images, chosen)
    with load_folded(model) as folded, ProgressBar() as progress:
        report = evaluate_retrieval(folded, dataset, progress)
    if as_json:
        print_json(report.document())
        return
    for label, (count, share) in report.per_label.items():
        print(f"{label:<32} {share:6.1%} of {count}")
    low, high = report.recall_at_1.low, report.recall_at_1.high
    print(
        f"neighbor has the right label: {report.recall_at_1.mean:.1%} of {report.images} images "
        f"(95 % interval {low:.1%} to {high:.1%})"
    )
    if report.unknown_labels:
        print(f"left out: {report.unknown_labels} images of labels that the bank does not have")
    for path, reason in report.skipped:
        print(f"skipped {path}: {reason}")


def _print_demo(report: DemoReport) -> None:
    print("\nShare of heat in the box of the object that was found")
    print(f"{'scene':<14}{'label found':<14}{'similarity':>10}{'heat in box':>13}{'ms':>8}")
    for score in report.scores:
        share = "not in scene" if score.heat_in_box is None else f"{score.heat_in_box:.0%}"
        print(
            f"{score.scene:<14}{score.label:<14}{score.similarity:>10.2f}{share:>13}"
            f"{score.milliseconds:>8.1f}"
        )
    found = sum(score.heat_in_box is not None for score in report.scores)
    means = report.means()
    print(f"\nlabel found in the scene: {found} of {len(report.scores)}")
    if means:
        print("mean share of heat in that box:")
        print(f"  folded model     {means['heat_in_box']:.0%}")
        print(f"  mean activation  {means['mean_activation']:.0%}  (sees objects, asks nothing)")
        print(f"  centred blob     {means['centred_blob']:.0%}")
        print(f"  uniform          {means['uniform']:.0%}")
    print(f"\nLook at {report.contact_sheet}")
    # Where the programs are, as long as the environment is not activated.
    programs = Path(sys.executable).parent
    here = "" if shutil.which("runtime") == str(programs / "runtime") else f"{_short(programs)}/"
    print(f"Your camera:  {here}runtime run {report.model} --camera 0 --save out/")
    print(f"Your network: {here}foldcam export package.module:factory --images DATA --out my.onnx")


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


if __name__ == "__main__":
    app()
