"""`foldcam threshold`: flags turned into a call of `choose_threshold`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from foldcam.export.commands.options import DeviceText, Json, choice, device_of, split_of
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.system.command import print_json, print_text

app = typer.Typer(no_args_is_help=True)


@app.command(
    epilog="Example: foldcam threshold birds.onnx --images held-out/ --unknown others/ "
    "--out birds.onnx"
)
def threshold(
    model: Annotated[
        Path, typer.Argument(help="The folded model to give a rule.", metavar="MODEL.onnx")
    ],
    out: Annotated[
        Path, typer.Option(help="Writes the model with its rule to this file; may be MODEL.onnx.")
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images that are not in the bank: class folders, a CSV, or a "
            "CUB-200-2011 folder. Labels that the bank has not count as unknown.",
            show_default="rows of the bank, each compared with the others",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Takes this part of --images: train, valid, test or all.")
    ] = "test",
    unknown: Annotated[
        Path | None,
        typer.Option(
            help="Images that show none of the model's labels: a folder of them, or a data set.",
            show_default="labels are left out of the bank, a tenth of them at a time",
        ),
    ] = None,
    accept: Annotated[
        float,
        typer.Option(help="The share of known images that the rule is to accept, 0 to 1."),
    ] = 0.95,
    score: Annotated[
        str,
        typer.Option(
            help="Chooses the score: similarity, similarity_and_margin (for a model exported with "
            "--contrast), whitened, or auto, which takes the one that tells known and unknown "
            "apart best."
        ),
    ] = "auto",
    device: DeviceText = "auto",
    as_json: Json = False,
) -> None:
    """Choose the similarity below which an image is unknown, and write it into the model.

    `runtime run` then answers `unknown` instead of the nearest label. The file says for how many
    known and unknown images the threshold was chosen, and what share of them it accepts.
    """
    from foldcam.export.banks.unknown.images import any_images
    from foldcam.export.commands.options import say_notes
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.exporting.threshold import choose_threshold
    from foldcam.runtime.contract.unknown import SCORES, Score

    check_outputs([Read("--images", images), Read("--unknown", unknown)], [Written("--out", out)])
    choices: tuple[Literal["auto"] | Score, ...] = ("auto", *SCORES)
    named = choice("--score", score, choices)
    wanted = None if named == "auto" else named
    known = None if images is None else load_dataset(images, split_of(split))
    strange = None if unknown is None else any_images(unknown)
    for dataset in (known, strange):
        if dataset is not None:
            say_notes(dataset)
    with ProgressBar() as progress:
        report = choose_threshold(
            model, out, known, strange,
            accept=accept, score=wanted, device=device_of(device), progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(report.document())
        return
    print_text(f"{out}: {report.rule.sentence()}")
    for candidate in report.candidates:
        rule = candidate.rule
        measured = "" if candidate.auroc is None else f"AUROC {candidate.auroc:.3f}, "
        strangers = f", {rule.unknown_accepted:.1%} of unknown" if rule.unknown_images else ""
        print_text(
            f"  {candidate.score:<22} {measured}accepts {rule.known_accepted:.1%} of known"
            f"{strangers}"
        )
    for note in report.notes:
        print_text(f"note: {note}")
    for path, reason in report.skipped[:10]:
        print_text(f"skipped {path}: {reason}")
    if len(report.skipped) > 10:
        print_text(f"skipped {len(report.skipped) - 10} more images")


if __name__ == "__main__":
    app()
