"""The console scripts `runtime` and `foldcam`.

Loaded first, so it imports little: a signal during start-up, too, ends with one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from foldcam.runtime.system.program import run_program


def runtime() -> NoReturn:
    """The console script `runtime`."""

    def load() -> Callable[..., Any]:
        from foldcam.runtime.cli.runtime import app
        from foldcam.runtime.system.command import prepared

        return prepared(app)

    run_program("runtime", load)


def foldcam() -> NoReturn:
    """The console script `foldcam`."""

    def load() -> Callable[..., Any]:
        from foldcam.runtime.cli.foldcam import installed
        from foldcam.runtime.system.command import prepared

        return prepared(installed())

    run_program("foldcam", load)
