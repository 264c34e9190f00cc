"""`foldcam check`: flags turned into a call of `check_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.export.commands.options import Json
from foldcam.runtime.system.command import print_report
from foldcam.runtime.system.errors import FoldcamError

app = typer.Typer(no_args_is_help=True)


@app.command(epilog="Example: foldcam check birds.onnx --target jetpack-6.2")
def check(
    model: Annotated[
        Path,
        typer.Argument(
            help="Names the ONNX file to check, folded by foldcam or not.", metavar="MODEL.onnx"
        ),
    ],
    target: Annotated[
        list[str],
        typer.Option(
            help="Names the device whose TensorRT is to read the model: jetpack-6.0, 6.1, 6.2, "
            "7.0, 7.1 or 7.2, desktop-10.x, desktop-11, rtx, or all; may be repeated."
        ),
    ],
    as_json: Json = False,
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
    print_report(report.document(), report_text(report), as_json, report.passed)
