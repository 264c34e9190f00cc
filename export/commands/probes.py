"""`foldcam probes`: probe pictures for a folded model of before there were any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.export.commands.options import Json
from foldcam.runtime.contract.at_stake import keep_network
from foldcam.runtime.system.command import print_report


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
