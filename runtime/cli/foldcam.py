"""`foldcam`: the program of the workstation.

Its commands come from the packages by entry point (group `foldcam.commands`, each a
`typer.Typer`), so that no package imports another for its command line.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

import typer

from foldcam.runtime.cli.options import program
from foldcam.runtime.system.command import missing_extra, prepared
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.memory import keep_freed_memory
from foldcam.runtime.system.program import run_program

GROUP = "foldcam.commands"


def gather(points: list[EntryPoint]) -> typer.Typer:
    """One program out of the packages' programs; their commands stand side by side.

    A package whose import fails leaves a command under its entry point's name, which
    says what to install.

    Args:
        points: of the group `foldcam.commands`.
    """
    root = program(
        "foldcam",
        "Fold the training images' grad-weights into an embedding network's ONNX graph."
        "\n\nExample: foldcam export demo --images photos/ --out model.onnx",
    )
    for point in sorted(points, key=lambda point: point.name):
        try:
            part = point.load()
        except ImportError as error:
            sentence = missing_extra(error)
            if sentence is None:
                raise
            _add_missing(root, point.name, sentence)
            continue
        root.registered_commands.extend(part.registered_commands)
        root.registered_groups.extend(part.registered_groups)
    if not root.registered_commands and not root.registered_groups:
        raise FoldcamError(
            "foldcam's commands are not installed: pip install 'foldcam[export]', or in a "
            "checkout pip install -e '.[export]'."
        )
    return root


def _add_missing(root: typer.Typer, name: str, sentence: str) -> None:
    def explain() -> None:
        raise FoldcamError(sentence)

    # Whatever flags were given, the answer is the same. The help does not repeat the
    # sentence: typer would read the brackets in it as markup.
    root.command(
        name,
        help="Not available: something that it needs is not installed.",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(explain)


def installed() -> typer.Typer:
    """The program out of everything that is installed."""
    keep_freed_memory()
    return gather(list(entry_points(group=GROUP)))


def main() -> NoReturn:
    """As `python -m foldcam.runtime.cli.foldcam`."""
    run_program("foldcam", lambda: prepared(installed()))


if __name__ == "__main__":
    main()
