"""From what the user typed to a source."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import FoldcamError
from runtime.image_format import image_format
from runtime.images import IMAGE_SUFFIXES
from runtime.options import Decoding, FlowOptions, SourceOptions
from runtime.sources.address import Address, parse_address
from runtime.sources.base import Source
from runtime.sources.capture import check_possible, open_capture
from runtime.sources.images import ImageSource, is_pattern
from runtime.sources.live import LiveSource
from runtime.sources.pattern import PatternSource
from runtime.sources.raw import RawSource
from runtime.sources.video import VideoSource
from runtime.sources.views import viewed


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
        return viewed(_from_path(file, options.decode), options)
    text = uri or source or f"/dev/video{camera}"
    address = parse_address(text, options)
    return viewed(_opened(address, flow), address.options)


def _opened(address: Address, flow: FlowOptions) -> Source:
    if address.kind == "path":
        return _from_path(address.target, address.options.decode)
    if address.kind == "raw":
        return RawSource(address)
    if address.kind == "pattern":
        return PatternSource(address)
    check_possible(address)
    source = LiveSource(
        lambda: open_capture(address, flow.stall_seconds), address.name, address.stem, flow
    )
    if not flow.wait:
        source.connect()
    return source


def _from_path(text: str, decode: Decoding) -> Source:
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
    return VideoSource(path, decode)


def _looks_like_image(path: Path) -> bool:
    """A photograph without a suffix is still one."""
    try:
        with path.open("rb") as stream:
            return path.is_file() and image_format(stream.read(16)) is not None
    except OSError:
        return False
