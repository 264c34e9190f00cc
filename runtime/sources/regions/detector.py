"""The user's own detector, named as `module:function`."""

from __future__ import annotations

import numpy.typing as npt

from foldcam.runtime.sources import Frame
from foldcam.runtime.system.text import printable
from foldcam.runtime.system.user_code import load_function, mistakes_of


class Detector:
    """Calls a function of the user's; whatever it raises becomes one sentence.

    Args:
        name: as `load_function` takes it. The function takes `uint8 [H, W, 3]` RGB, into which it
            must not write, and returns boxes `[n, 4]` of x, y, width, height in pixels.
    """

    def __init__(self, name: str) -> None:
        self.name = f"The detector {printable(name)}"
        self._function = load_function(name, self.name)

    def __call__(self, frame: Frame, /) -> npt.ArrayLike:
        """The boxes of a frame."""
        with mistakes_of(f"{self.name} failed on frame {frame.index} of {frame.source}"):
            boxes: npt.ArrayLike = self._function(frame.image)
        return boxes
