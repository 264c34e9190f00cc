"""What the benchmark commands share: options, and the network that they measure."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.benchmarks.evaluation.graphs import NetworkChoice

_BOXES = "Reads images with boxes from a CUB-200-2011 folder or a CSV file."
Boxes = Annotated[Path, typer.Option(help=_BOXES)]
Data = Annotated[
    Path | None,
    typer.Option(help=_BOXES, show_default="CUB_200_2011 in the folder that FOLDCAM_DATA names"),
]
FoldedModel = Annotated[
    str | None,
    typer.Option(
        help="Folds this MODEL.",
        show_default="one with embeddings of 128 numbers, which is trained in --out",
    ),
]
Out = Annotated[Path, typer.Option(help="Writes the results into this folder.")]
Size = Annotated[
    str | None,
    typer.Option(
        help="Sets the input size of the network in pixels, 256 or WIDTHxHEIGHT.",
        show_default="that of MODEL; 256 where a network is trained",
    ),
]
Epochs = Annotated[int, typer.Option(help="Sets the number of training epochs.", min=1)]
Seed = Annotated[int, typer.Option(help="Sets the seed of everything that is drawn.", min=0)]
Draws = Annotated[int, typer.Option(help="Sets the number of bootstrap resamples.", min=1)]
Rows = Annotated[str, typer.Option(help="Sets the numbers of bank rows, separated by commas.")]
ImagesPerPass = Annotated[
    str, typer.Option(help="Sets the numbers of images per forward pass, separated by commas.")
]


def has_studies() -> bool:
    """Whether this is a checkout, which holds the studies; the wheel does not."""
    return find_spec("foldcam.benchmarks.studies") is not None


def study(name: str, command: str) -> Any:
    """A module of the studies, loaded by name: what is installed must import none of them.

    Args:
        name: the module below `foldcam.benchmarks.studies`.
    """
    if not has_studies():
        raise FoldcamError(
            f"{command} is a study of the project, which is not installed with it: run it from "
            "a checkout of the repository."
        )
    return import_module(f"foldcam.benchmarks.studies.{name}")


def refuse_network_flags(model: str, *given: object) -> None:
    """Refuse what says how a network is read where MODEL is a folded model.

    Args:
        given: what the flags were given; None is not given.
    """
    if any(value is not None for value in given):
        raise typer.BadParameter(
            f"{model} is a folded model, which says itself how images are made: leave out "
            "--weights, --layer, --output, --size, --resize, --color, --mean and --std."
        )


def usual_data() -> Path:
    """`CUB_200_2011` in the folder that FOLDCAM_DATA names."""
    folder = os.environ.get("FOLDCAM_DATA")
    if not folder:
        raise typer.BadParameter("--data is missing, and FOLDCAM_DATA names no folder.")
    return Path(folder) / "CUB_200_2011"


def counts(text: str, flag: str = "--rows", least: int = 2) -> tuple[int, ...]:
    """Whole numbers with commas, each once."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 0 < len(part) < 10 for part in parts):
        raise typer.BadParameter(f"{flag} {text!r} is not numbers with commas: 300,10000.")
    found = tuple(dict.fromkeys(int(part) for part in parts))
    if min(found) < least:
        raise typer.BadParameter(f"{flag} {text!r}: each must be at least {least}.")
    return found


def remarks(document: dict[str, Any]) -> list[str]:
    """A report's notes, and its first ten skipped images."""
    skipped = [f"skipped {item['path']}: {item['reason']}" for item in document["skipped"][:10]]
    return [*(f"note: {note}" for note in document["notes"]), *skipped]


def network_choice(
    model: str | None, weights: Path | None, size: str | None, epochs: int, seed: int
) -> NetworkChoice:
    """The network of `--model`, or one that is trained at 256 x 256 unless `--size` says else."""
    from dataclasses import replace

    from foldcam.benchmarks.evaluation.graphs import BASE, NetworkChoice
    from foldcam.export.models.spec import load_model, with_overrides
    from foldcam.export.models.training.trainer import TrainingOptions

    preprocessing = None
    if size is not None or model is None:
        base = load_model(model or BASE, weights).preprocessing
        preprocessing = with_overrides(base, size=size or "256")
    training = replace(TrainingOptions(), epochs=epochs, seed=seed)
    return NetworkChoice(model, weights, preprocessing, training)
