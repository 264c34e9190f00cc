"""`foldcam check`: flags turned into a call of `check_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.runtime.system.command import print_json, print_text
from foldcam.runtime.system.errors import ExitStatus, FoldcamError

app = typer.Typer(no_args_is_help=True)


@app.command(epilog="Example: foldcam check birds.onnx --target jetpack-6.2")
def check(
    model: Annotated[
        Path,
        typer.Argument(
            help="The ONNX file to check, folded by foldcam or not.", metavar="MODEL.onnx"
        ),
    ],
    target: Annotated[
        list[str],
        typer.Option(
            help="The device whose TensorRT is to read the model: jetpack-6.0, 6.1, 6.2, 7.0, 7.1 "
            "or 7.2, desktop-10.x, desktop-11, rtx, or all. It may be given several times and has "
            "no default."
        ),
    ],
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON document instead of text. Without it, text is printed."
        ),
    ] = False,
) -> None:
    """Check on the workstation whether a device's TensorRT will read a model."""
    from foldcam.export.verification.check.checker import check_model
    from foldcam.export.verification.check.report import report_text
    from foldcam.export.verification.check.targets import find_targets

    try:
        targets = find_targets(target)
    except FoldcamError as error:
        raise typer.BadParameter(str(error)) from None
    report = check_model(model, targets)
    if as_json:
        print_json(report.document())
    else:
        print_text(report_text(report))
    if not report.passed:
        raise typer.Exit(ExitStatus.GATE_FAILED)


if __name__ == "__main__":
    app()
