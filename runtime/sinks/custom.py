"""Sinks that users write: `module:factory`, from the working directory or installed."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from foldcam.runtime.drawing.frame_results import FrameResults
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.sinks.base import NotWritten, Reopens, Sink, StopRequested
from foldcam.runtime.sources.base import Source
from foldcam.runtime.system.text import printable
from foldcam.runtime.system.user_code import load_function, mistakes_of

_NEEDED = ("name", "may_skip", "output", "write", "__enter__", "__exit__")


def open_custom(text: str, sources: Sequence[Source]) -> Sink:
    """Call a user's factory.

    Args:
        text: `package.module:factory`; the factory takes the run's sources and returns a sink.
        sources: opened.

    Returns:
        The sink, with whatever it raises as one sentence.

    Raises:
        FoldcamError: it cannot be imported, is no function, failed, or returned no sink.
    """
    shown = f"--sink {printable(text)}"
    factory = load_function(text, shown)
    with mistakes_of(f"{shown} failed when it was opened"):
        sink = factory(sources)
    missing = [name for name in _NEEDED if not hasattr(sink, name)]
    if missing:
        raise FoldcamError(f"{shown} returned no sink: it has no {missing[0]} (see docs/sinks.md).")
    return (_ReopeningSink if isinstance(sink, Reopens) else CustomSink)(sink, shown)


class CustomSink:
    """A user's sink, whose mistakes are errors of the run like any other.

    Args:
        sink: the user's.
        shown: how messages begin.
    """

    def __init__(self, sink: Any, shown: str) -> None:
        self.sink = sink
        self._shown = shown
        self.main_thread = bool(getattr(sink, "main_thread", False))

    @property
    def name(self) -> str:
        """As the user's."""
        return str(self.sink.name)

    @property
    def may_skip(self) -> bool:
        """As the user's."""
        return bool(self.sink.may_skip)

    @property
    def output(self) -> str | None:
        """As the user's."""
        return None if self.sink.output is None else str(self.sink.output)

    def __enter__(self) -> CustomSink:
        with mistakes_of(f"{self._shown} failed when it was entered"):
            self.sink.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with mistakes_of(f"{self._shown} failed when it was left"):
            self.sink.__exit__(kind, error, trace)

    def write(self, item: FrameResults) -> None:
        """Give the user's sink one frame.

        Raises:
            FoldcamError: it raised something.
        """
        signs: list[Exception] = []
        with mistakes_of(f"{self._shown} failed on frame {item.frame.index}"):
            try:
                self.sink.write(item)
            except (StopRequested, NotWritten, BrokenPipeError) as sign:
                signs.append(sign)
        if signs:
            raise signs[0]


class _ReopeningSink(CustomSink):
    def reopen(self) -> None:
        with mistakes_of(f"{self._shown} failed when it was opened again"):
            self.sink.reopen()
