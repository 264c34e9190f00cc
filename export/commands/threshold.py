"""`foldcam threshold`: flags turned into a call of `choose_threshold`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from foldcam.export.commands import options as flags
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
from foldcam.runtime.system.command import print_report

app = typer.Typer(no_args_is_help=True)


@app.command(
    epilog="Example: foldcam threshold birds.onnx --images held-out/ --unknown others/ "
    "--out birds.onnx"
)
def threshold(
    model: Annotated[
        Path, typer.Argument(help="Names the folded model to give a rule.", metavar="MODEL.onnx")
    ],
    out: Annotated[
        Path, typer.Option(help="Writes the model with its rule to this file; may be MODEL.onnx.")
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Reads labelled images that are not in the bank from class folders, a CSV, or a "
            "CUB-200-2011 folder. Labels that the bank does not have count as unknown.",
            show_default="rows of the bank, each compared with the others",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Takes this part of --images: train, valid, test or all.")
    ] = "test",
    unknown: Annotated[
        Path | None,
        typer.Option(
            help="Reads images that show none of the model's labels from a folder or a data set.",
            show_default="labels are left out of the bank, a tenth of them at a time",
        ),
    ] = None,
    accept: Annotated[
        float,
        typer.Option(help="Sets the share of known images that the rule is to accept, 0 to 1."),
    ] = 0.95,
    score: Annotated[
        str,
        typer.Option(
            help="Chooses the score: similarity, similarity_and_margin (for a model exported with "
            "--contrast), whitened, or auto, which takes the one that tells known and unknown "
            "apart best."
        ),
    ] = "auto",
    device: flags.DeviceText = "auto",
    as_json: flags.Json = False,
) -> None:
    """Choose the similarity below which an image is unknown, and write it into the model.

    `runtime run` then answers `unknown` instead of the nearest label. The file says for how many
    known and unknown images the threshold was chosen, and what share of them it accepts.
    """
    from foldcam.export.banks.unknown.images import any_images
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import load_dataset
    from foldcam.export.exporting.threshold import choose_threshold
    from foldcam.runtime.contract.unknown import SCORES, Score

    check_outputs([Read("--images", images), Read("--unknown", unknown)], [Written("--out", out)])
    choices: tuple[Literal["auto"] | Score, ...] = ("auto", *SCORES)
    named = flags.choice("--score", score, choices)
    wanted = None if named == "auto" else named
    known = None if images is None else load_dataset(images, flags.split_of(split))
    strange = None if unknown is None else any_images(unknown)
    for dataset in (known, strange):
        if dataset is not None:
            flags.say_notes(dataset)
    with ProgressBar() as progress:
        report = choose_threshold(
            model, out, known, strange,
            accept=accept, score=wanted, device=flags.device_of(device), progress=progress,
        )  # fmt: skip
    lines = [f"{out}: {report.rule.sentence()}"]
    for candidate in report.candidates:
        rule = candidate.rule
        measured = "" if candidate.auroc is None else f"AUROC {candidate.auroc:.3f}, "
        strangers = f", {rule.unknown_accepted:.1%} of unknown" if rule.unknown_images else ""
        lines.append(
            f"  {candidate.score:<22} {measured}accepts {rule.known_accepted:.1%} of known"
            f"{strangers}"
        )
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"skipped {path}: {reason}" for path, reason in report.skipped[:10]]
    if len(report.skipped) > 10:
        lines.append(f"skipped {len(report.skipped) - 10} more images")
    print_report(report.document(), "\n".join(lines), as_json)
