"""Progress on a device: one line that is rewritten on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TextIO


class ProgressLine:
    """Shows `stage done/total` on standard error. Use as a context manager.

    Args:
        stream: standard error unless given.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._write("")

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` of a stage are finished."""
        self._write(f"{stage} {done}/{total}")

    def _write(self, text: str) -> None:
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
