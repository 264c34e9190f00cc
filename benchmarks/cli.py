"""`foldcam demo`, `evaluate` and `bench`: flags turned into calls of public functions."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldcam.benchmarks.bench_cli import bench
from foldcam.benchmarks.ray.cli import ray
from foldcam.runtime.at_stake import Read, Written, check_outputs
from foldcam.runtime.errors import ExitStatus
from foldcam.runtime.system.command import print_json

if TYPE_CHECKING:
    from foldcam.benchmarks.demo.run import DemoReport

app = typer.Typer(no_args_is_help=True)
evaluate = typer.Typer(no_args_is_help=True, help="Measure a folded model on labelled images.")
app.add_typer(evaluate, name="evaluate")
app.add_typer(bench, name="bench")
bench.command(epilog="Example: foldcam bench ray --data CUB_200_2011 --workers 1,2")(ray)


@app.command(epilog="Example: foldcam demo --out demo-output")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that is made.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="Of views and scenes.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """The main job, end to end, on photographs that a package carries."""
    from foldcam.benchmarks.demo.run import run_demo

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
    split: Annotated[str, typer.Option(help="train, valid, test or all.")] = "test",
    bank: Annotated[
        Path | None,
        typer.Option(
            help="The bank of the model: its own images are known by their files' hashes, and "
            "not by their embeddings."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """The share of images whose nearest bank row, other than their own, has the right label."""
    from foldcam.benchmarks.retrieval import evaluate_retrieval, load_folded, rows_of_model
    from foldcam.export.commands.options import data_document, say_notes, split_of
    from foldcam.export.datasets import load_dataset
    from foldcam.export.progress import ProgressBar

    dataset = load_dataset(images, split_of(split))
    say_notes(dataset)
    with load_folded(model) as folded, ProgressBar() as progress:
        report = evaluate_retrieval(folded, dataset, progress, rows_of_model(model, bank))
    if as_json:
        print_json({**report.document(), **data_document(dataset)})
        return
    for note in report.notes:
        print(f"note: {note}")
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


@evaluate.command(
    epilog="Example: foldcam evaluate localization --data CUB_200_2011 --out results/cub"
)
def localization(
    data: Annotated[Path, typer.Option(help="Images with boxes: CUB-200-2011, or a CSV.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results/localization"),
    model: Annotated[
        str | None,
        typer.Option(help="MODEL to explain; without it, one is trained on the training half."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of that MODEL.")] = None,
    size: Annotated[str, typer.Option(help="Input size, 256 or WIDTHxHEIGHT.")] = "256",
    epochs: Annotated[int, typer.Option(help="Of training.", min=1)] = 30,
    seed: Annotated[int, typer.Option(help="Of training, grids and triplets.", min=0)] = 0,
    draws: Annotated[int, typer.Option(help="Of the bootstrap.", min=1)] = 2000,
    unseen: Annotated[
        bool, typer.Option(help="Train a second network without two of the labels.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Grid pointing, insertion, deletion, pixel AP, boxes: every method, with intervals."""
    from dataclasses import replace

    from foldcam.benchmarks.localization.report import text_table
    from foldcam.benchmarks.localization.study import StudyOptions, run_study
    from foldcam.export.commands.options import say_notes
    from foldcam.export.datasets import load_dataset
    from foldcam.export.models.spec import load_model, with_overrides
    from foldcam.export.progress import ProgressBar
    from foldcam.export.training.trainer import TrainingOptions

    check_outputs([Read("--data", data)], [Written("--out", out)])
    preprocessing = None
    say_notes(load_dataset(data, "all", boxes="truth"))
    if model is None:
        preprocessing = with_overrides(load_model("efficientnet-lite0").preprocessing, size=size)
    options = StudyOptions(
        model=model,
        weights=weights,
        preprocessing=preprocessing,
        training=replace(TrainingOptions(), epochs=epochs, seed=seed),
        seed=seed,
        draws=draws,
        unseen=unseen,
    )
    with ProgressBar() as progress:
        document = run_study(data, out, options, progress)
    if as_json:
        print_json(document)
        return
    print(text_table(document))
    print(f"\nrecall@1 {document['recall_at_1']:.1%}, {document['minutes']} minutes")
    print(f"Written to {out}: localization.json, tables, plot and contact sheets")


@evaluate.command(
    epilog="Example: foldcam evaluate transfer --data CUB_200_2011 --out results/transfer"
)
def transfer(
    data: Annotated[Path, typer.Option(help="Images with boxes: CUB-200-2011, or a CSV.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results/transfer"),
    epochs: Annotated[int, typer.Option(help="Of training, per head.", min=1)] = 15,
    seed: Annotated[int, typer.Option(help="Of folds, training and grids.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Which rows, channels, objective and head: grid pointing on the training half alone."""
    from dataclasses import replace

    from foldcam.benchmarks.transfer.study import run_transfer_study
    from foldcam.export.commands.options import say_notes
    from foldcam.export.datasets import load_dataset
    from foldcam.export.progress import ProgressBar
    from foldcam.export.training.trainer import TrainingOptions

    check_outputs([Read("--data", data)], [Written("--out", out)])
    say_notes(load_dataset(data, "all", boxes="truth"))
    training = replace(TrainingOptions(), epochs=epochs, seed=seed, views=5, mosaics=200)
    with ProgressBar() as progress:
        document = run_transfer_study(data, out, training, progress)
    if as_json:
        print_json(document)
        return
    for name, row in document["variants"].items():
        value, gap = row["grid_pointing"], row["difference"]
        print(
            f"{name:<48}{value['mean']:6.3f}  {gap['mean']:+.3f} [{gap['low']:+.3f}, "
            f"{gap['high']:+.3f}]"
        )
    print()
    for name, row in document["heads"].items():
        print(
            f"{name:<12} transferred {row['transferred']['mean']:.3f}, own gradient "
            f"{row['aggregated_backprop']['mean']:.3f}, maps correlate "
            f"{row['map_correlation']:.3f}; with the gradient by position "
            f"{row['position_correlation']:.3f}"
        )
    print(f"Written to {out}/transfer.json")


@evaluate.command(
    "house-price",
    epilog="Example: foldcam evaluate house-price --data houses --out results/houses",
)
def house_price(
    data: Annotated[Path, typer.Option(help="Folder of houses: houses.csv or HousesInfo.txt.")],
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results/houses"),
    epochs: Annotated[int, typer.Option(help="Of training.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Of split, training and masks.", min=0)] = 0,
    draws: Annotated[int, typer.Option(help="Of the bootstrap.", min=1)] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """A price from photographs: estimates, and whether what raises and lowers them does."""
    from dataclasses import replace

    from foldcam.benchmarks.houses.report import text_table
    from foldcam.benchmarks.houses.study import TRAINING, StudyOptions, run_study
    from foldcam.export.progress import ProgressBar

    check_outputs([Read("--data", data)], [Written("--out", out)])
    options = StudyOptions(
        training=replace(TRAINING, epochs=epochs, seed=seed), seed=seed, draws=draws
    )
    with ProgressBar() as progress:
        document = run_study(data, out, options, progress)
    if as_json:
        print_json(document)
        return
    print(text_table(document))
    print(f"\n{document['minutes']} minutes, of which {document['training_minutes']} of training")
    print(f"Written to {out}: house-price.json, tables, plot, contact sheet, folded models")


@evaluate.command(epilog="Example: foldcam evaluate architectures --out results/architectures")
def architectures(
    out: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "results/architectures"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Fold networks of many kinds, compare them with torch, and build them with TensorRT RTX."""
    from foldcam.benchmarks.architectures.study import failed, markdown_table, run_architectures
    from foldcam.export.progress import ProgressBar

    with ProgressBar() as progress:
        document = run_architectures(out, progress)
    if as_json:
        print_json(document)
    else:
        print(markdown_table(document))
    if failed(document):
        raise typer.Exit(ExitStatus.GATE_FAILED)


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
