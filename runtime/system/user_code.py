"""Functions that a user names: `module:function`, from the working directory or installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.stopping import may_be_interrupted
from foldcam.runtime.system.text import printable, shorten

_LONGEST_MISTAKE = 300


def load_function(name: str, shown: str) -> Callable[..., Any]:
    """Import a function of the user's.

    Args:
        name: `package.module:function`, or `module:object.attribute`. The working directory
            is last on the import path, so that a folder there cannot stand in for an
            installed package.
        shown: how messages begin, such as `--sink my_module:make`.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise FoldcamError(f"{shown} is not written as module:function.")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found: Any = import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except BaseException as error:
        if not is_mistake(error):
            raise
        raise FoldcamError(f"{shown} cannot be imported: {mistake(error)}.") from error
    if not callable(found):
        raise FoldcamError(f"{shown} is {type(found).__name__}, not a function.")
    function: Callable[..., Any] = found
    return function


def is_mistake(error: BaseException) -> bool:
    """Whether an exception is the fault of the code that raised it.

    A user's function may end by `sys.exit()`, which must not end a run without a word, or raise
    `KeyboardInterrupt` although nobody pressed Ctrl-C: that arrives in the main thread only,
    and in a program of ours as `Stopped`.
    """
    if isinstance(error, KeyboardInterrupt):
        return type(error) is KeyboardInterrupt and not may_be_interrupted()
    return isinstance(error, (Exception, SystemExit))


@contextmanager
def mistakes_of(shown: str) -> Iterator[None]:
    """Turn whatever a user's code raises into one sentence.

    Args:
        shown: how it begins, such as `The detector my_module:boxes failed on frame 3`.
    """
    try:
        yield
    except FoldcamError:
        raise
    except BaseException as error:
        if not is_mistake(error):
            raise
        raise FoldcamError(f"{shown}: {mistake(error)}.") from error


def mistake(error: BaseException) -> str:
    """What a user's code raised, as a clause of bounded length."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return printable(shorten(text, _LONGEST_MISTAKE)).rstrip(".")
