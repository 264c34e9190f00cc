"""`foldcam gallery` and `foldcam probes`: what is added to a folded model that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.export.commands.options import BatchSize, Json, say_notes, split_of
from foldcam.runtime.contract.at_stake import Read, Written, check_outputs, keep_network
from foldcam.runtime.system.command import print_report
from foldcam.runtime.system.errors import FoldcamError

app = typer.Typer(no_args_is_help=True)


@app.command(epilog="Example: foldcam gallery birds.onnx --images CUB_200_2011")
def gallery(
    model: Annotated[
        Path,
        typer.Argument(help="Names the folded model whose bank is shown.", metavar="MODEL.onnx"),
    ],
    images: Annotated[
        Path,
        typer.Option(help="Reads the training images that the model's bank was built from."),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="Takes this part of the data: train, valid, test or all.",
            show_default="that of the model's bank",
        ),
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            help="Finds each row's image by this bank, the one that was folded into the model; "
            "needed where the bank was changed after it was built.",
            show_default="none",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Writes the gallery to this .gallery file.",
            show_default="MODEL.gallery beside the model",
        ),
    ] = None,
    batch_size: BatchSize = 16,
    as_json: Json = False,
) -> None:
    """Write the thumbnail and the map of each training image beside a folded model.

    The gallery holds pictures of the training set: keep it as you keep those.
    """
    from dataclasses import asdict

    from foldcam.export.banks.bank import Bank
    from foldcam.export.commands.progress import ProgressBar
    from foldcam.export.datasets import SPLITS, load_dataset
    from foldcam.export.exporting.gallery import make_gallery
    from foldcam.runtime.contract.gallery import SUFFIX, gallery_path
    from foldcam.runtime.contract.onnx_file import read_contract

    path = out or gallery_path(model)
    if path.suffix != SUFFIX:
        raise FoldcamError(f"--out {path}: a gallery is a {SUFFIX} file.")
    check_outputs(
        [Read("MODEL", model), Read("--images", images), Read("--bank", bank)],
        [Written("--out", path)],
    )
    contract = read_contract(model)
    # A bank that was made by hand may name no part.
    built_from = contract.origin.split if contract.origin.split in SPLITS else "all"
    dataset = load_dataset(
        images,
        split_of(built_from if split is None else split),
        continuous=contract.outcome is not None,
    )
    say_notes(dataset)
    with ProgressBar() as progress:
        report = make_gallery(
            model,
            dataset,
            path,
            bank=None if bank is None else Bank.load(bank),
            batch_size=batch_size,
            progress=lambda done, total: progress("gallery", done, total),
        )
    size = path.stat().st_size
    document = {**asdict(report), "path": str(path), "bytes": size, "notes": report.notes()}
    elsewhere = "" if path == gallery_path(model) else f" --gallery {path}"
    lines = [
        f"{path}: {size / 1e6:.1f} MB, pictures of {report.rows - report.missing} rows",
        *(f"  note: {note}" for note in report.notes()),
        f"Next: runtime run {model} --file PHOTO --save out/ --beside{elsewhere}",
    ]
    print_report(document, "\n".join(lines), as_json)


@app.command(epilog="Example: foldcam probes birds.onnx")
def probes(
    model: Annotated[Path, typer.Argument(help="Names the folded model.", metavar="MODEL.onnx")],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Takes the answers of this float32 model, from which a float16 MODEL was "
            "exported; needed for that alone.",
            show_default="MODEL itself",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Writes the model to this .onnx file.", show_default="MODEL itself"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Add probe pictures to a folded model, by which devices find wrong answers.

    The graph stays as it is. `foldcam export` and `foldcam fold` add them by themselves.
    """
    from foldcam.export.grafting.probes import add_probes

    out = out or model
    keep_network("--out", out)
    canary = add_probes(model, out, reference)
    seeds = [answer.seed for answer in canary.answers]
    document = {"model": str(out), "pictures": len(seeds), "precision": canary.precision}
    text = f"{out}: {len(seeds)} probe pictures, with the answers of {reference or model}"
    print_report(document, text, as_json)
