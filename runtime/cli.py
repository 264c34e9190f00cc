"""`runtime`: the program of the device. Flags in, calls of public functions out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from runtime.cli_support import print_json, print_text, run_app
from runtime.engine.cli import build
from runtime.errors import ExitStatus
from runtime.run_cli import config_app, run

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
app.add_typer(config_app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        from runtime.version import version

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
    from runtime.inspect import inspect_model, inspection_text

    report = inspect_model(file)
    if json:
        print_json(report)
    else:
        print_text(inspection_text(report))


@app.command()
def doctor(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="For --self-test: a folded .onnx; without it the one that `run` takes.",
            show_default=False,
        ),
    ] = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="Build an engine and compare the GPU's answers with the CPU's."
        ),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            help="Say how this source would be read, without opening it; of csi:// the "
            "GStreamer pipeline.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Look at this machine: what is there, what is missing, and what to do about it.

    With --self-test, run a model on the GPU: the report is made for bug reports. Exit
    status 3 if an answer is wrong.

    Example: runtime doctor

    Example: runtime doctor --self-test model.onnx

    Example: runtime doctor --source "csi://0?size=1920x1080&rate=30"
    """
    if self_test and source is not None:
        raise typer.BadParameter("--self-test reads no source.")
    if self_test:
        _self_test(model, json)
        return
    if model is not None:
        raise typer.BadParameter("a model is only for --self-test.")
    from dataclasses import asdict

    from runtime.doctor import diagnose, diagnose_source, diagnosis_text

    checks = diagnose() if source is None else diagnose_source(source)
    if json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        print_text(diagnosis_text(checks))


def _self_test(model: Path | None, json: bool) -> None:
    from runtime.default_model import find_model
    from runtime.self_test import self_test, self_test_text

    report = self_test(model if model is not None else find_model())
    if json:
        print_json(report)
    else:
        print_text(self_test_text(report))
    if not report["passed"]:
        raise typer.Exit(ExitStatus.GATE_FAILED)


def main() -> NoReturn:
    """The console script `runtime`."""
    run_app(app, "runtime")


if __name__ == "__main__":
    main()
