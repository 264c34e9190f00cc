"""From what the user typed to a source."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.errors import FoldcamError
from runtime.image_format import image_format
from runtime.images import IMAGE_SUFFIXES
from runtime.redaction import redacted
from runtime.sources.base import Source
from runtime.sources.camera import open_camera, open_stream
from runtime.sources.images import ImageSource, is_pattern
from runtime.sources.video import VideoSource

_STREAMS = ("rtsp", "rtsps", "http", "https", "tcp", "udp")
_SCHEMES = ("file", *_STREAMS)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")


def open_source(
    *, camera: int | None = None, file: str | None = None, source: str | None = None
) -> Source:
    """Open what the flags `--camera`, `--file` and `--source` name; exactly one is given.

    Args:
        camera: number of a camera of this machine.
        file: an image, a folder, a pattern, or a video.
        source: a URI: a path, `file://`, `/dev/videoN`, `rtsp://`, `http://`, `tcp://`, `udp://`.

    Raises:
        FoldcamError: it does not exist or cannot be opened.
        ValueError: not exactly one is given.
    """
    if sum(value is not None for value in (camera, file, source)) != 1:
        raise ValueError("give exactly one of camera, file and source")
    if camera is not None:
        return open_camera(camera)
    if file is not None:
        return _from_path(file)
    assert source is not None
    return _from_uri(source)


def _from_uri(uri: str) -> Source:
    match = _SCHEME.match(uri)
    if match is None:
        return _from_path(uri)
    scheme = match.group(1).lower()
    if scheme == "file":
        return _from_path(unquote(urlsplit(uri).path))
    if scheme in _STREAMS:
        return open_stream(uri, redacted(uri), _stem(uri, scheme))
    raise FoldcamError(
        f"{redacted(uri)} has the scheme {scheme!r}, which is not supported: use a path, "
        f"/dev/videoN, or one of {', '.join(f'{name}://' for name in _SCHEMES)}."
    )


def _from_path(text: str) -> Source:
    device = re.fullmatch(r"/dev/video(\d+)", text)
    if device:
        return open_camera(int(device.group(1)))
    path = Path(text)
    try:
        if path.is_dir():
            return ImageSource.from_folder(path)
        if not path.exists():
            if is_pattern(text):
                return ImageSource.from_pattern(text)
            raise FoldcamError(f"{text} does not exist.")
    except (OSError, ValueError) as error:
        raise FoldcamError(f"{text!r} cannot be opened: {error}.") from error
    if path.suffix.lower() in IMAGE_SUFFIXES or _looks_like_image(path):
        return ImageSource.from_file(path)
    return VideoSource(path)


def _looks_like_image(path: Path) -> bool:
    """A photograph without a suffix is still one."""
    try:
        with path.open("rb") as stream:
            return path.is_file() and image_format(stream.read(16)) is not None
    except OSError:
        return False


def _stem(uri: str, scheme: str) -> str:
    """A file name for outputs, from the address."""
    try:
        host = urlsplit(uri).hostname or ""
    except ValueError:
        host = ""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", f"{scheme}-{host}").strip("-.") or scheme
