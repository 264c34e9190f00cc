"""`runtime compare`: two pictures, how alike they are, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.text import printable


def compare(
    model: Annotated[
        Path, typer.Argument(help="The folded model (.onnx) or engine, exported with --query.")
    ],
    first: Annotated[Path, typer.Argument(help="A photograph.")],
    second: Annotated[Path, typer.Argument(help="Another photograph.")],
    save: Annotated[
        Path | None,
        typer.Option(help="Writes both pictures with their maps to this picture file."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare two photographs: their similarity, and what in each of them speaks for it.

    Example: runtime compare model.onnx a.jpg b.jpg --save pair.png
    """
    from foldcam.runtime.contract.at_stake import Read, Written, check_outputs
    from foldcam.runtime.images.files import read_image, write_image
    from foldcam.runtime.model.folded_model import FoldedModel
    from foldcam.runtime.model.model_input import ModelInput
    from foldcam.runtime.model.pair import compare as compared
    from foldcam.runtime.model.pair import draw_pair

    check_outputs(
        [Read("MODEL", model), Read("FIRST", first), Read("SECOND", second)],
        [Written("--save", save)],
    )
    images = read_image(first), read_image(second)
    with FoldedModel.load(model) as loaded:
        pair = compared(loaded, *images)
        given = ModelInput(loaded.contract)
    if any(given.shows_smaller(image.shape[1], image.shape[0]) for image in images):
        print(
            "note: the model takes whole frames (--frame) of other proportions, and is shown these "
            "photographs smaller than its training images.",
            file=sys.stderr,
        )
    if save is not None:
        write_image(save, draw_pair(pair, *images))
    document = pair.document()
    if json:
        print_json(
            {
                "files": [str(first), str(second)],
                **document,
                "saved": None if save is None else str(save),
            }
        )
        return
    lines = [f"similarity {pair.similarity:.3f}"]
    for path, which in ((first, "first"), (second, "second")):
        found = document[which]
        region = found["hottest_region"]
        where = (
            "nothing in it speaks for the likeness"
            if region is None
            else f"{region['share']:.0%} of the likeness at x {region['x']}, y {region['y']}, "
            f"{region['width']} x {region['height']} pixels"
        )
        lines.append(f"  {printable(str(path))}: {printable(found['answer'])}; {where}")
    if save is not None:
        lines.append(f"wrote {printable(str(save))}")
    print_text("\n".join(lines))
