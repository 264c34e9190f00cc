"""Sinks that users write: `module:factory`, from the working directory or installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from runtime.errors import FoldcamError
from runtime.sinks.base import Sink
from runtime.sources.base import Source

_NEEDED = ("name", "may_skip", "output", "write", "__enter__", "__exit__")


def open_custom(text: str, sources: Sequence[Source]) -> Sink:
    """Call a user's factory.

    Args:
        text: `package.module:factory`; the factory takes the run's sources and returns a sink.
        sources: opened.

    Raises:
        FoldcamError: it cannot be imported, is no function, failed, or returned no sink.
    """
    factory = load_function(text, "--sink")
    try:
        sink = factory(sources)
    except FoldcamError:
        raise
    except Exception as error:
        raise FoldcamError(
            f"--sink {text} failed when it was opened: {type(error).__name__}: {error}."
        ) from error
    missing = [name for name in _NEEDED if not hasattr(sink, name)]
    if missing:
        raise FoldcamError(
            f"--sink {text} returned no sink: it has no {missing[0]} (see docs/sinks.md)."
        )
    custom: Sink = sink
    return custom


def load_function(text: str, flag: str) -> Callable[..., Any]:
    """`module:function` as a function; the working directory is on the import path.

    Raises:
        FoldcamError: there is no such module or function; the message names the flag.
    """
    module_name, separator, name = text.partition(":")
    if not separator or not module_name or not name.isidentifier():
        raise FoldcamError(f"{flag} {text} is not of the form module:function.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        function = getattr(import_module(module_name), name, None)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        raise FoldcamError(f"{flag} {text}: there is no module {missing!r}.") from error
    except Exception as error:
        raise FoldcamError(
            f"{flag} {text} cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if not callable(function):
        raise FoldcamError(f"{flag} {text}: {module_name} has no function {name!r}.")
    loaded: Callable[..., Any] = function
    return loaded
