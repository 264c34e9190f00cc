"""How much of a film can be played: it is read back, since no encoder says that it is whole."""

from __future__ import annotations

from pathlib import Path

import cv2

from foldcam.runtime.images.opencv import quiet


def playable_frames(path: Path, most: int) -> int:
    """How many frames of a film can be played, from its first one.

    Returns:
        `most`, if the film says that it has as many, give or take two (Matroska estimates), and
        its end can be played. Else they are decoded and counted, because a film that was cut
        does not know.
    """
    quiet()
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened() or not capture.read()[0]:
            return 0
        if most - 2 <= capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 2 * most + 2:
            capture.set(cv2.CAP_PROP_POS_FRAMES, max(0, most - 3))
            if capture.read()[0]:
                return most
        capture.release()
        capture.open(str(path))
        counted = 0
        while counted < most and capture.grab():
            counted += 1
        return counted
    except cv2.error:
        return 0
    finally:
        capture.release()


def is_playable(path: Path) -> bool:
    """Whether a film that was cut off plays; one without an index of its own does not."""
    return playable_frames(path, 1) > 0
