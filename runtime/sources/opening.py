"""From what the user typed to a source."""

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
from foldcam.runtime.sources.address import Address, device_address, parse_address
from foldcam.runtime.sources.base import Source
from foldcam.runtime.sources.capture import check_possible, open_capture
from foldcam.runtime.sources.images import ImageSource, is_pattern
from foldcam.runtime.sources.live import LiveSource
from foldcam.runtime.sources.options import FlowOptions, SourceOptions
from foldcam.runtime.sources.pattern import PatternSource
from foldcam.runtime.sources.raw import RawSource
from foldcam.runtime.sources.video import VideoSource
from foldcam.runtime.sources.views import viewed
from foldcam.runtime.system.errors import FoldcamError

CAMERA = "is a camera"
_VIDEO4LINUX = 81
"""The major number of Linux' video devices."""
_MOTION_BYTES = 1 << 28


def open_source(
    uri: str | None = None,
    options: SourceOptions | None = None,
    flow: FlowOptions | None = None,
    *,
    camera: int | None = None,
    file: str | None = None,
    source: str | None = None,
) -> Source:
    """Open a source by its address; exactly one of `uri`, `camera`, `file`, `source` is given.

    Args:
        uri: a path, a pattern, `-`, `/dev/videoN`, or a URI: `file://`, `v4l2://`, `csi://`,
            `rtsp://`, `http://`, `tcp://`, `udp://`, `test://`.
        options: size and rate to ask for, rotation, crop, and which frames to take.
        flow: when a live source that stops is opened again. None: never, it just ends.
        camera: number of a camera of this machine.
        file: an image, a folder, a pattern, or a video.
        source: as `uri`.

    Raises:
        FoldcamError: it does not exist or cannot be opened. A live source with `flow.wait`
            is waited for instead, unless this machine could never open it.
        ValueError: not exactly one is given.
    """
    if sum(value is not None for value in (uri, camera, file, source)) != 1:
        raise ValueError("give exactly one of uri, camera, file and source")
    options = options or SourceOptions()
    flow = flow or FlowOptions(reconnect=False)
    if file is not None:
        return viewed(_from_path(file, options, flow), options)
    text = uri or source or f"/dev/video{camera}"
    address = parse_address(text, options)
    return viewed(_opened(address, flow), address.options)


def _opened(address: Address, flow: FlowOptions) -> Source:
    if address.kind == "path":
        return _from_path(address.target, address.options, flow)
    if address.kind == "raw":
        return RawSource(address)
    if address.kind == "pattern":
        return PatternSource(address)
    return _live(address, flow)


def _live(address: Address, flow: FlowOptions) -> Source:
    check_possible(address)
    source = LiveSource(
        lambda: open_capture(address, flow.stall_seconds), address.name, address.stem, flow
    )
    if not flow.wait:
        source.connect()
    return source


def _from_path(text: str, options: SourceOptions, flow: FlowOptions) -> Source:
    path = Path(text)
    try:
        if path.is_dir():
            return ImageSource.from_folder(path)
        if not path.exists():
            if is_pattern(text):
                return ImageSource.from_pattern(text)
            raise FoldcamError(_missing(text))
        special = special_file(path)
    except (OSError, ValueError) as error:
        raise FoldcamError(f"{text!r} cannot be opened: {error}.") from error
    if special == CAMERA:
        return _live(device_address(text, options), flow)
    if special is not None:
        raise FoldcamError(f"{text} {special}.")
    if is_film(path):
        return VideoSource(path, options.decode)
    return ImageSource.from_file(path)


def _missing(text: str) -> str:
    if text.isascii() and text.isdigit():
        return f"{text} does not exist; a camera by its number is --camera {text}."
    return f"{text} does not exist."


def special_file(path: Path) -> str | None:
    """What a path is that is no file of bytes, as a clause; None for a file.

    A pipe or a device is never opened: that could wait for ever, or set something off.
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
