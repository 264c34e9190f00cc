"""A window with the overlay, where there is a display."""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import suppress

import cv2

from foldcam.runtime.images.opencv import has
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks.base import Sink, StopRequested
from foldcam.runtime.system.errors import FoldcamError

_TITLE = "foldcam (q to stop)"
_STOP_KEYS = (ord("q"), 27)


class WindowSink(Sink):
    """Shows every frame; `q`, Esc or closing the window ends the run."""

    name = "window"
    may_skip = True
    main_thread = True  # toolkits demand it

    def __init__(self, hold: bool = False) -> None:
        self._hold = hold
        self._shown = False
        problem = why_no_window()
        if problem:
            raise FoldcamError(f"--show cannot open a window: {problem}; use --save PATH instead.")
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise FoldcamError(
                "--show cannot open a window: the display refused it; use --save PATH instead."
            ) from error

    def close(self, failed: bool) -> None:
        """Close the window; the last photograph stays until a key is pressed."""
        if not failed and self._hold and self._shown:
            while self._visible() and cv2.waitKey(100) < 0:
                pass
        cv2.destroyAllWindows()

    def write(self, item: FrameResults) -> None:
        """Show one frame."""
        cv2.imshow(_TITLE, cv2.cvtColor(item.image, cv2.COLOR_RGB2BGR))
        self._shown = True
        if cv2.waitKey(1) & 0xFF in _STOP_KEYS or not self._visible():
            self._hold = False
            raise StopRequested

    def _visible(self) -> bool:
        return cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1


def why_no_window() -> str:
    """Why no window can be opened here, as a clause; empty if one can."""
    if not has("GUI"):
        return "this OpenCV is the headless one (pip install 'foldcam[window]' has windows)"
    if not sys.platform.startswith("linux") or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    display = os.environ.get("DISPLAY", "")
    if not display:
        return "there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    if not _answers(display):
        return f"the display {display} (from DISPLAY) does not answer"
    return ""


def _answers(display: str) -> bool:
    """Whether a local X server listens: Qt aborts the whole process where none does."""
    match = re.fullmatch(r"(?:unix)?:(\d+)(?:\.\d+)?", display)
    if match is None:
        return True  # on another host, as with ssh -X: let the toolkit find out
    path = f"/tmp/.X11-unix/X{match.group(1)}"
    for address in (path, f"\0{path}"):
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.settimeout(2.0)
            client.connect(address)
            return True
    return False
