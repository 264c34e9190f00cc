"""`runtime`: the program of the device. Flags in, calls of public functions out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from foldcam.runtime.cli.bank import app as bank_app
from foldcam.runtime.cli.build import build
from foldcam.runtime.cli.compare import compare
from foldcam.runtime.cli.deploy import deploy
from foldcam.runtime.cli.device import doctor, gate, self_test
from foldcam.runtime.cli.run import config_app, run
from foldcam.runtime.measurement.bench.cli import bench
from foldcam.runtime.system.command import prepared, print_json, print_text
from foldcam.runtime.system.program import run_program

app = typer.Typer(
    name="runtime",
    help="Run a folded model on photographs, videos and cameras: embedding and heatmap from one "
    "forward pass.\n\nExample: runtime run model.onnx --file photos/ --save out/",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.command()(run)
app.command()(build)
app.command()(bench)
# The two flags that became commands are named by `doctor` itself, whatever stands beside them.
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(doctor)
app.command()(self_test)
app.command()(gate)
app.command()(compare)
app.command()(deploy)
app.add_typer(bank_app, name="bank")
app.add_typer(config_app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        from foldcam.runtime.system.version import version

        print_text(f"foldcam {version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def inspect(
    file: Annotated[
        Path,
        typer.Argument(help="A folded model (.onnx) or an engine (.engine).", show_default=False),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print what a folded model promises: tensors, preprocessing, bank, labels, origin.

    Of an engine also what it was built with and for; nothing of it is deserialised.

    Example: runtime inspect model.onnx
    """
    from foldcam.runtime.engine.inspect import inspect_model, inspection_text

    report = inspect_model(file)
    if json:
        print_json(report)
    else:
        print_text(inspection_text(report))


def main() -> NoReturn:
    """As `python -m foldcam.runtime.cli.runtime`."""
    run_program("runtime", lambda: prepared(app))


if __name__ == "__main__":
    main()
