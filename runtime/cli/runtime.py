"""`runtime`: the program of the device. Flags in, calls of public functions out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from foldcam.runtime.cli.bank import app as bank_app
from foldcam.runtime.cli.build import build, deploy
from foldcam.runtime.cli.device import doctor, gate, self_test
from foldcam.runtime.cli.options import Json, program
from foldcam.runtime.cli.run import config_app, run
from foldcam.runtime.measurement.bench.cli import bench
from foldcam.runtime.system.command import prepared, print_report
from foldcam.runtime.system.program import run_program
from foldcam.runtime.system.text import printable

app = program(
    "runtime",
    "Run a folded model on photographs, videos and cameras: embedding and heatmap from one "
    "forward pass.\n\nExample: runtime run model.onnx --file photos/ --save out/",
)
for command in (run, build, bench, self_test, gate, deploy):
    app.command()(command)
# The two flags that became commands are named by `doctor` itself, whatever stands beside them.
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(doctor)
app.add_typer(bank_app, name="bank")
app.add_typer(config_app, name="config")


@app.command()
def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            help="Names the folded model (.onnx) or engine (.engine).", show_default=False
        ),
    ],
    json: Json = False,
) -> None:
    """Print what a folded model promises: tensors, preprocessing, bank, labels, origin.

    Of an engine also what it was built with and for; nothing of it is deserialised.

    Example: runtime inspect model.onnx
    """
    from foldcam.runtime.engine.inspect import inspect_model, inspection_text

    report = inspect_model(file)
    print_report(report, inspection_text(report), json)


@app.command()
def compare(
    model: Annotated[
        Path,
        typer.Argument(help="Names the folded model (.onnx) or engine, exported with --query."),
    ],
    first: Annotated[Path, typer.Argument(help="Reads this photograph.")],
    second: Annotated[Path, typer.Argument(help="Compares it with this photograph.")],
    save: Annotated[
        Path | None,
        typer.Option(
            help="Writes both pictures with their maps to this picture file.", show_default="none"
        ),
    ] = None,
    json: Json = False,
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
    document = {
        "files": [str(first), str(second)],
        **pair.document(),
        "saved": None if save is None else str(save),
    }
    lines = [f"similarity {pair.similarity:.3f}"]
    for path, which in ((first, "first"), (second, "second")):
        found = document[which]
        region = found["hottest_region"]
        where = "nothing in it speaks for the likeness"
        if region is not None:
            where = (
                f"{region['share']:.0%} of the likeness at x {region['x']}, y {region['y']}, "
                f"{region['width']} x {region['height']} pixels"
            )
        lines.append(f"  {printable(str(path))}: {printable(found['answer'])}; {where}")
    if save is not None:
        lines.append(f"wrote {printable(str(save))}")
    print_report(document, "\n".join(lines), json)


def main() -> NoReturn:
    """As `python -m foldcam.runtime.cli.runtime`."""
    run_program("runtime", lambda: prepared(app))


if __name__ == "__main__":
    main()
