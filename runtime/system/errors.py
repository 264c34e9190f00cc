"""The one exception that users see, and the exit statuses of both programs."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What the exit status of `foldcam` and `runtime` means."""

    DONE = 0
    USER_ERROR = 1
    """The user's input or environment is at fault."""
    USAGE = 2
    GATE_FAILED = 3
    """The work finished but a gate failed."""


class FoldcamError(Exception):
    """The user's input or environment is at fault.

    The message is one sentence that says what is wrong, where, and how to fix
    it. The command line prints it without a traceback and exits with status 1.
    """
