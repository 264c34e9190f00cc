"""The user's own detector, named as `module:function`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy.typing as npt

from runtime.errors import FoldcamError
from runtime.sources import Frame
from runtime.text import printable, shorten

MISTAKES_NAMED = 300


class Detector:
    """Calls a function of the user's; whatever it raises becomes one sentence.

    Args:
        name: `package.module:function`, or `module:object.attribute`. The working directory
            is on the import path. The function takes `uint8 [H, W, 3]` RGB, into which it
            must not write, and returns boxes `[n, 4]` of x, y, width, height in pixels.

    Raises:
        FoldcamError: there is no such function, or importing it failed.
    """

    def __init__(self, name: str) -> None:
        self.name = f"The detector {printable(name)}"
        self._function = _load(name, self.name)

    def __call__(self, frame: Frame, /) -> npt.ArrayLike:
        """The boxes of a frame.

        Raises:
            FoldcamError: the function raised something.
        """
        try:
            boxes: npt.ArrayLike = self._function(frame.image)
        except Exception as error:
            raise FoldcamError(
                f"{self.name} failed on frame {frame.index} of {frame.source}: {_mistake(error)}."
            ) from error
        return boxes


def _load(name: str, shown: str) -> Callable[[Any], Any]:
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise FoldcamError(f"{shown} is not written as module:function.")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except Exception as error:
        raise FoldcamError(f"{shown} cannot be imported: {_mistake(error)}.") from error
    if not callable(found):
        raise FoldcamError(f"{shown} is {type(found).__name__}, not a function.")
    function: Callable[[Any], Any] = found
    return function


def _mistake(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return printable(shorten(text, MISTAKES_NAMED)).rstrip(".")
