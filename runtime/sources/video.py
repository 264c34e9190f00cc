"""Video files, every frame in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePath

import cv2
import numpy as np

from foldcam.runtime.images.format import HEAD_BYTES, image_format
from foldcam.runtime.images.opencv import has, quiet
from foldcam.runtime.images.pixel_limit import check_pixels
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.size import image_size
from foldcam.runtime.sources.base import Frame, Skip, Source, undecodable
from foldcam.runtime.sources.capture import CvCapture, decoding
from foldcam.runtime.sources.options import Decoding
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Cause

# A text file that tells FFmpeg to open other files and addresses is no video.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")
_HEADER_BYTES = 1 << 20


class VideoSource(Source):
    """A video file; nothing is dropped. One that ends early is reported, not hidden."""

    def __init__(self, path: Path, decode: Decoding = "auto") -> None:
        super().__init__(str(path), path.stem)
        self._path = path
        _check_file(path)
        quiet()
        # FFmpeg takes what stands before a colon for a protocol, unless a slash comes first.
        opened_as = str(path.absolute())
        backend = cv2.CAP_FFMPEG if has("FFMPEG") else cv2.CAP_ANY
        try:
            capture = cv2.VideoCapture(opened_as, backend, decoding(decode))
            opened = capture.isOpened()
        except cv2.error:
            opened = False
        if not opened:
            raise FoldcamError(
                f"{path} is not a video that this OpenCV reads, or it is truncated or damaged "
                "(if a player shows it, convert it: ffmpeg -i FILE -pix_fmt yuv420p out.mp4)."
            )
        sides = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
        width, height = (_whole(capture.get(side)) for side in sides)
        check_pixels(width, height, path)
        self._handle = capture
        self._capture = CvCapture(capture, str(path), live=False)
        self._reading = threading.Lock()
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # Containers without an index report a negative or absurd number.
        self.frames = int(count) if 0 < count < 1e9 else None
        self.fps = self._capture.fps

    def close(self) -> None:
        """Close the file."""
        # A thread that is stuck in a read (on a disk of the network) keeps it.
        if self._reading.acquire(timeout=1.0):
            self._capture.release()
            self._reading.release()

    def __iter__(self) -> Iterator[Frame]:
        index = bad = 0
        last = 0.0
        while not self._stopped.is_set() and (image := self._read()) is not None:
            if self._capture.bad > bad:
                # Numbers go on counting over what was there and could not be decoded.
                index += self._capture.bad - bad
                self._link.dropped(Cause.unreadable, self._capture.bad - bad)
                bad = self._capture.bad
            last = max(last, self._timestamp(index))
            yield Frame(image, index, self.name, PurePath(self._path.name), last, time.monotonic())
            index += 1
        if bad:
            self.skipped.append(Skip(self.name, undecodable(bad)))
        if self._stopped.is_set():
            return
        expected = self.frames
        # Some containers only estimate their length from duration and rate.
        if index == 0:
            self.skipped.append(Skip(self.name, "no frame of it can be decoded"))
        elif expected is not None and expected - index > max(2, expected // 100):
            self.skipped.append(Skip(self.name, f"ended early at frame {index} of {expected}"))

    def _read(self) -> Image | None:
        with self._reading:
            return self._capture.read()

    def _timestamp(self, index: int) -> float:
        milliseconds = self._handle.get(cv2.CAP_PROP_POS_MSEC)
        if np.isfinite(milliseconds) and milliseconds > 0:
            return float(milliseconds) / 1e3
        return index / self.fps if self.fps else 0.0


def _whole(value: float) -> int:
    return int(value) if 0 < value < 1e9 else 0


def _check_file(path: Path) -> None:
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise FoldcamError(f"{path} {reason}.")
    try:
        with path.open("rb") as stream:
            start = stream.read(HEAD_BYTES)
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not start:
        raise FoldcamError(f"{path} is empty (0 bytes).")
    if start.startswith(_PLAYLISTS):
        raise FoldcamError(f"{path} is a playlist, not a video: give the video itself.")
    kind = image_format(start)
    if kind in ("HEIC", "AVIF"):
        # FFmpeg would take the first of its tiles for a film of one frame.
        raise FoldcamError(f"{path} is a {kind} picture, not a video.")
    if kind is not None:
        # A film of pictures; FFmpeg decodes the first one already when it opens the file.
        with path.open("rb") as stream:
            size = image_size(stream.read(_HEADER_BYTES), kind)
        if size is not None:
            check_pixels(*size, path)
