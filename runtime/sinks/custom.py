"""Sinks that users write: `module:factory`, from the working directory or installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks.base import Loses, NotWritten, Reopens, Sink, StopRequested
from foldcam.runtime.sources.base import Source
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable
from foldcam.runtime.system.user_code import load_function, mistakes_of

_NEEDED = ("name", "may_skip", "output", "write", "__enter__", "__exit__")


def open_custom(text: str, sources: Sequence[Source]) -> Sink:
    """Call a user's factory."""
    shown = f"--sink {printable(text)}"
    factory = load_function(text, shown)
    with mistakes_of(f"{shown} failed when it was opened"):
        sink = factory(sources)
    missing = [name for name in _NEEDED if not hasattr(sink, name)]
    if missing:
        raise FoldcamError(
            f"{shown} returned no sink: it has no {missing[0]}; inherit from "
            "foldcam.runtime.sinks.Sink (see docs/extending.md)."
        )
    with mistakes_of(f"{shown} failed when it was opened"):
        return CustomSink(sink, shown)


class CustomSink(Sink):
    """A user's sink, whose mistakes are errors of the run like any other."""

    def __init__(self, sink: Any, shown: str) -> None:
        self.sink = sink
        self._shown = shown
        self.name, self.may_skip = str(sink.name), bool(sink.may_skip)
        self.main_thread = bool(getattr(sink, "main_thread", False))
        self.passive = bool(getattr(sink, "passive", False))
        self._take_output()
        if isinstance(sink, Reopens):
            # Only then: the run asks a sink with this method again after it has failed.
            self.reopen = self._reopen

    def __enter__(self) -> CustomSink:
        with mistakes_of(f"{self._shown} failed when it was entered"):
            self.sink.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        with mistakes_of(f"{self._shown} failed when it was left"):
            self.sink.__exit__(*error)
            self._take_output()

    def write(self, item: FrameResults) -> None:
        """Give the user's sink one frame."""
        signs: list[Exception] = []
        with mistakes_of(f"{self._shown} failed on frame {item.frame.index}"):
            try:
                self.sink.write(item)
            except (StopRequested, NotWritten, BrokenPipeError) as sign:
                signs.append(sign)
            self._take_output()
        if signs:
            raise signs[0]

    def losses(self) -> tuple[int, str]:
        """Those of the user's sink, if it counts them."""
        if not isinstance(self.sink, Loses):
            return 0, ""
        with mistakes_of(f"{self._shown} failed when it was asked for its losses"):
            count, reason = self.sink.losses()
            return int(count), str(reason)

    def _reopen(self) -> None:
        with mistakes_of(f"{self._shown} failed when it was opened again"):
            self.sink.reopen()

    def _take_output(self) -> None:
        self.output = None if self.sink.output is None else str(self.sink.output)
