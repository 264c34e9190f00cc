"""The console scripts `runtime` and `foldcam`.

Loaded first, so it imports little: a signal during start-up, too, ends with one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from runtime.program import run_program


def runtime() -> NoReturn:
    """The console script `runtime`."""

    def load() -> Callable[..., Any]:
        from runtime.cli import app
        from runtime.cli_support import prepared

        return prepared(app)

    run_program("runtime", load)


def foldcam() -> NoReturn:
    """The console script `foldcam`."""

    def load() -> Callable[..., Any]:
        from runtime.cli_support import prepared
        from runtime.foldcam_cli import installed

        return prepared(installed())

    run_program("foldcam", load)
