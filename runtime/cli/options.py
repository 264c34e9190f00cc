"""What the commands of both programs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldcam.runtime.system.command import print_text

Json = Annotated[
    bool,
    typer.Option("--json", help="Prints one JSON document to standard output in place of text."),
]
FoldedFile = Annotated[
    Path, typer.Argument(help="Names the folded model (.onnx).", show_default=False)
]


def program(name: str, text: str) -> typer.Typer:
    """A program of several commands, which knows `--version`."""
    app = typer.Typer(
        name=name,
        help=text,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from foldcam.runtime.system.version import version

        print_text(f"foldcam {version()}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Prints the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    pass
