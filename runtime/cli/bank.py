"""`runtime bank`: labels learned, forgotten and listed on the device."""

from __future__ import annotations

import fnmatch
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.runtime.cli.options import Json
from foldcam.runtime.system.command import print_report
from foldcam.runtime.system.errors import ExitStatus, FoldcamError
from foldcam.runtime.system.text import printable, quantity

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    from foldcam.runtime.contract.bank.bank_file import Removed
    from foldcam.runtime.contract.bank.live_bank import LiveBank
    from foldcam.runtime.contract.schema import Contract
    from foldcam.runtime.model.enrolling import Picture, Unusable
    from foldcam.runtime.model.folded_model import FoldedModel

app = typer.Typer(
    name="bank",
    help="Change the bank beside a model that was exported with --bank-input. A running process "
    "takes up the new bank between two frames.\n\n"
    "Example: runtime bank add model.onnx --label anna --images anna/",
    no_args_is_help=True,
)

Model = Annotated[
    Path,
    typer.Argument(help="Names the folded model (.onnx) or its engine, with MODEL.bank beside it."),
]


@app.command()
def add(
    model: Model,
    label: Annotated[
        str, typer.Option(help="Names what all the pictures show; a known label gets more rows.")
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Learns this picture, or all pictures of this folder.", show_default="none"
        ),
    ] = None,
    camera: Annotated[
        int | None,
        typer.Option(help="Learns from the camera of this number.", min=0, show_default="none"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Learns from this video or stream, as in runtime run --source.",
            show_default="none",
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(help="Sets how many seconds of a camera or video are looked at.", min=0.1),
    ] = 5.0,
    most: Annotated[
        int,
        typer.Option(
            help="Sets how many frames of a camera or video are learned: the sharpest, and of "
            "these the most different.",
            min=1,
        ),
    ] = 8,
    json: Json = False,
) -> None:
    """Learn a label from a few pictures; no workstation, no rebuilding of an engine.

    Example: runtime bank add model.onnx --label anna --camera 0
    """
    from foldcam.runtime.contract.bank.live_bank import bank_path
    from foldcam.runtime.images.files import list_images
    from foldcam.runtime.model.enrolling import enroll, pictures_of
    from foldcam.runtime.model.folded_model import FoldedModel

    if sum(each is not None for each in (images, camera, source)) != 1:
        raise typer.BadParameter("give exactly one of --images, --camera and --source.")
    _contract_of(model)
    label = " ".join(label.split())
    begin = time.monotonic()
    pictures: Iterable[Picture | Unusable]
    with FoldedModel.load(model) as loaded:
        if images is not None:
            paths = list_images(images) if images.is_dir() else [images]
            if not paths:
                raise FoldcamError(f"{images} has no picture in it.")
            root = images if images.is_dir() else images.parent
            pictures = pictures_of(loaded, paths, root)
        else:
            pictures = _frames(loaded, label, camera, source, seconds, most)
        enrolled = enroll(bank_path(model), loaded.contract, label, pictures)
    bank = enrolled.added.bank
    report = {
        "bank": str(bank_path(model)),
        "label": label,
        "added": enrolled.added.rows,
        "known": [{"name": name, "label": own} for name, own in enrolled.added.known],
        "unusable": [vars(each) for each in enrolled.unusable],
        "nearer_to_another": [vars(each) for each in enrolled.nearer],
        "shown_smaller": enrolled.smaller,
        "rows": bank.rows,
        "labels": len(bank.labels),
        "seconds": round(time.monotonic() - begin, 3),
    }
    print_report(report, "\n".join(_added_lines(report)), json)
    if enrolled.unusable or any(own != label for _, own in enrolled.added.known):
        raise typer.Exit(ExitStatus.USER_ERROR)


@app.command()
def remove(
    model: Model,
    label: Annotated[
        str | None, typer.Option(help="Removes all rows of this label.", show_default="none")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            help="Removes the rows of pictures of this name; * stands for anything.",
            show_default="none",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Forget a label or pictures, for good: the report says what is gone from the file.

    Example: runtime bank remove model.onnx --label anna
    """
    import numpy as np

    from foldcam.runtime.contract.bank.bank_file import remove_rows
    from foldcam.runtime.contract.bank.live_bank import bank_path

    if (label is None) == (image is None):
        raise typer.BadParameter("give either --label or --image.")

    def chosen(bank: LiveBank) -> npt.NDArray[np.bool_]:
        if label is not None:
            bank.direction_of(label)  # names the nearest label where there is none
            return np.array([each == label for each in bank.row_labels()])
        assert image is not None
        mask = np.array([fnmatch.fnmatchcase(name, image) for name in bank.names])
        if not mask.any():
            raise FoldcamError(
                f"No picture in the bank is called {printable(image)}: see runtime bank list "
                f"{model} --json."
            )
        return mask

    removed = remove_rows(bank_path(model), _contract_of(model), chosen)
    _report_removed(model, removed, json)


@app.command()
def undo(model: Model, json: Json = False) -> None:
    """Take the rows out again that were added last; what was removed does not come back.

    Example: runtime bank undo model.onnx
    """
    from foldcam.runtime.contract.bank import bank_file
    from foldcam.runtime.contract.bank.live_bank import bank_path

    _report_removed(model, bank_file.undo(bank_path(model), _contract_of(model)), json)


@app.command(name="list")
def list_labels(model: Model, json: Json = False) -> None:
    """List the labels of the bank and how many rows each has.

    Example: runtime bank list model.onnx
    """
    from foldcam.runtime.contract.bank.bank_file import read_bank
    from foldcam.runtime.contract.bank.live_bank import bank_path

    _contract_of(model)
    bank = read_bank(bank_path(model))
    pictures: dict[str, list[str]] = {}
    for name, own in zip(bank.names, bank.row_labels(), strict=True):
        pictures.setdefault(own, []).append(name)
    labels = [
        {"label": run.name, "rows": run.count, "pictures": pictures[run.name]}
        for run in bank.labels
    ]
    document = {"bank": str(bank_path(model)), "rows": bank.rows, "labels": labels}
    width = max((len(str(run.count)) for run in bank.labels), default=1)
    lines = [f"{run.count:>{width}}  {printable(run.name)}" for run in bank.labels]
    lines.append(f"{bank.rows} rows of {len(bank.labels)} labels")
    print_report(document, "\n".join(lines), json)


def _contract_of(model: Path) -> Contract:
    """The contract of a model whose bank is an input."""
    from foldcam.runtime.backends.choice import is_engine
    from foldcam.runtime.contract.onnx_file import read_contract
    from foldcam.runtime.engine.manifest import read_manifest

    contract = (
        read_manifest(model).contract(str(model)) if is_engine(model) else read_contract(model)
    )
    if contract.scores is not None:
        raise FoldcamError(
            f"{model} is a classifier, whose bank is its own last layer: only training changes it."
        )
    if contract.bank_input is None:
        raise FoldcamError(
            f"The bank of {model} is a part of its graph and cannot be changed here: on the "
            "workstation, fold it again with foldcam fold --bank-input."
        )
    return contract


def _frames(
    model: FoldedModel,
    label: str,
    camera: int | None,
    source: str | None,
    seconds: float,
    most: int,
) -> list[Picture | Unusable]:
    """The best frames of a few seconds, as pictures."""
    from foldcam.runtime.model.enrolling import best_frames, looked_at, picture_of
    from foldcam.runtime.sources.opening import open_source

    opened = open_source(source, camera=camera)
    try:
        candidates = looked_at(model, opened, seconds)
    finally:
        opened.close()
    taken = best_frames(candidates, most)
    print(
        f"{quantity(len(candidates), 'different frame')} in {seconds:g} s, learned: {len(taken)}",
        file=sys.stderr,
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return [
        picture_of(f"{label}/{stamp}-{number}", candidates[at].sha256, candidates[at].result)
        for number, at in enumerate(taken, 1)
    ]


def _added_lines(report: dict[str, Any]) -> list[str]:
    label = printable(report["label"])
    lines = [
        f"{report['bank']}: {quantity(report['added'], 'row')} of '{label}' added; it has "
        f"{quantity(report['rows'], 'row')} of {report['labels']} labels"
    ]
    own = sum(each["label"] == report["label"] for each in report["known"])
    if own:
        lines.append(f"  in the bank already: {quantity(own, 'picture')}")
    lines += [
        f"  left out: {printable(each['name'])} is in the bank as {printable(each['label'])!r}; "
        "to move it, remove it first: runtime bank remove MODEL --image NAME"
        for each in report["known"]
        if each["label"] != report["label"]
    ]
    lines += [
        f"  note: {printable(each['name'])} looks more like {printable(each['label'])!r} "
        f"({each['similarity']:.2f}) than like the others of {label!r}"
        for each in report["nearer_to_another"]
    ]
    if report["shown_smaller"]:
        lines.append(
            f"  note: {quantity(len(report['shown_smaller']), 'picture')} of other proportions "
            "than the frames that the model takes: they are shown smaller than frames, which are "
            "learned better from the camera itself"
        )
    lines += [
        f"  left out: {printable(each['name'])}: {each['reason']}" for each in report["unusable"]
    ]
    return [*lines, "To take it back: runtime bank undo MODEL"] if report["added"] else lines


def _report_removed(model: Path, removed: Removed, json: bool) -> None:
    from foldcam.runtime.contract.bank.live_bank import bank_path

    rows = sum(removed.labels.values())
    document = {
        "bank": str(bank_path(model)), "removed": rows, "labels": removed.labels,
        "pictures": removed.names, "labels_gone": removed.labels_gone, "rows": removed.bank.rows,
    }  # fmt: skip
    lines = [f"{bank_path(model)}: gone from the file: {quantity(rows, 'row')}"]
    lines += [f"  {count} of {printable(name)}" for name, count in removed.labels.items()]
    lines += [f"  the label {printable(name)} is gone" for name in removed.labels_gone]
    left = quantity(removed.bank.rows, "row")
    lines.append(f"{left} of {len(removed.bank.labels)} labels are left")
    print_report(document, "\n".join(lines), json)
