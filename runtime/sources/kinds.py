"""What a path names: a picture, a film, a camera, or something that cannot be read as any."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from foldcam.runtime.images.format import (
    FILM_SUFFIXES,
    HEAD_BYTES,
    IMAGE_SUFFIXES,
    film_format,
    image_format,
)
from foldcam.runtime.images.integrity import is_motion_jpeg
from foldcam.runtime.system.errors import FoldcamError

CAMERA = "is a camera"
_VIDEO4LINUX = 81
"""The major number of Linux' video devices."""
_MOTION_BYTES = 1 << 28


def special_file(path: Path) -> str | None:
    """What a path is that is no file of bytes, as a clause; None for a file.

    A pipe or a device is never opened: that could wait for ever, or set something off.

    Returns:
        `CAMERA` for a video device, otherwise what is wrong and what can be done.
    """
    status = path.stat()
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISCHR(mode):
        if sys.platform.startswith("linux") and os.major(status.st_rdev) == _VIDEO4LINUX:
            return CAMERA
        return "is a device, and no camera"
    if stat.S_ISFIFO(mode):
        return (
            "is a pipe, which cannot be read as a file: raw RGB frames are taken from standard "
            f"input, as in --source - --width 640 --height 480 < {path}"
        )
    if stat.S_ISSOCK(mode):
        return "is a socket, which cannot be read as a file"
    return "is a device, and no camera"


def is_film(path: Path) -> bool:
    """Whether a file is read as a film; otherwise as a picture.

    The content decides, and the name where the content says nothing. A GIF that is given by
    itself is a film: every frame of it counts.
    """
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as stream:
            start = stream.read(HEAD_BYTES)
            kind = image_format(start)
            if kind == "JPEG":
                if suffix in FILM_SUFFIXES:
                    return True
                recorded = is_motion_jpeg(start + stream.read(_MOTION_BYTES))
                if recorded and suffix in IMAGE_SUFFIXES:
                    # FFmpeg goes by this name, and would read the first of them.
                    raise FoldcamError(
                        f"{path} holds several pictures one after the other (Motion JPEG), and "
                        f"has the name of a single one: rename it to {path.stem}.mjpeg."
                    )
                return recorded
    except OSError:
        return suffix not in IMAGE_SUFFIXES
    if kind is not None:
        return kind == "GIF"
    return film_format(start) or suffix not in IMAGE_SUFFIXES
