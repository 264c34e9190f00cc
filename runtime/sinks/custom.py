"""Sinks that users write: `module:factory`, from the working directory or installed."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import FoldcamError
from runtime.sinks.base import Sink
from runtime.sources.base import Source
from runtime.text import printable
from runtime.user_code import load_function, mistake

_NEEDED = ("name", "may_skip", "output", "write", "__enter__", "__exit__")


def open_custom(text: str, sources: Sequence[Source]) -> Sink:
    """Call a user's factory.

    Args:
        text: `package.module:factory`; the factory takes the run's sources and returns a sink.
        sources: opened.

    Raises:
        FoldcamError: it cannot be imported, is no function, failed, or returned no sink.
    """
    factory = load_function(text, f"--sink {printable(text)}")
    try:
        sink = factory(sources)
    except FoldcamError:
        raise
    except Exception as error:
        raise FoldcamError(f"--sink {text} failed when it was opened: {mistake(error)}.") from error
    missing = [name for name in _NEEDED if not hasattr(sink, name)]
    if missing:
        raise FoldcamError(
            f"--sink {text} returned no sink: it has no {missing[0]} (see docs/sinks.md)."
        )
    custom: Sink = sink
    return custom
