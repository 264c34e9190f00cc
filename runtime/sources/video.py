"""Video files, every frame in order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from types import TracebackType

import cv2
import numpy as np

from runtime.errors import FoldcamError
from runtime.opencv import has, quiet
from runtime.preprocess import Image
from runtime.sources.base import Frame, Skip

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".wmv", ".flv", ".3gp", ".ogv", ".mjpeg", ".mjpg", ".gif",
)  # fmt: skip

# A text file that tells FFmpeg to open other files and addresses is no video.
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")


class VideoSource:
    """A video file; nothing is dropped. One that ends early is reported, not hidden.

    Args:
        path: the file.

    Raises:
        FoldcamError: missing, empty, or not a video that this OpenCV reads.
    """

    stills = False
    live = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)
        self.stem = path.stem
        self.skipped: list[Skip] = []
        _check_file(path)
        quiet()
        backend = cv2.CAP_FFMPEG if has("FFMPEG") else cv2.CAP_ANY
        try:
            self._capture = cv2.VideoCapture(str(path), backend)
            opened = self._capture.isOpened()
        except cv2.error:
            opened = False
        if not opened:
            raise FoldcamError(
                f"{path} is not a video that this OpenCV reads, or it is truncated or damaged "
                "(if a player shows it, convert it: ffmpeg -i FILE -pix_fmt yuv420p out.mp4)."
            )
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # Containers without an index report a negative or absurd number.
        self.frames: int | None = int(count) if 0 < count < 1e9 else None
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = float(rate) if 0 < rate < 1000 else None

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        last = 0.0
        while (image := read_rgb(self._capture)) is not None:
            last = max(last, self._timestamp(index))
            yield Frame(image, index, self.name, PurePath(self._path.name), last, time.monotonic())
            index += 1
        expected = self.frames
        # Some containers only estimate their length from duration and rate.
        if index == 0:
            self.skipped.append(Skip(self.name, "no frame of it can be decoded"))
        elif expected is not None and expected - index > max(2, expected // 100):
            self.skipped.append(Skip(self.name, f"ended early at frame {index} of {expected}"))

    def _timestamp(self, index: int) -> float:
        milliseconds = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        if np.isfinite(milliseconds) and milliseconds > 0:
            return float(milliseconds) / 1e3
        return index / self.fps if self.fps else 0.0


def read_rgb(capture: cv2.VideoCapture) -> Image | None:
    """The next frame as `uint8 [H, W, 3]` RGB, or None when there is none.

    A frame that OpenCV reports as read and leaves empty counts as none: a failed read
    must never reach the network.
    """
    try:
        done, frame = capture.read()
    except cv2.error:
        return None
    array = np.asarray(frame)
    if not done or array.size == 0 or array.dtype != np.uint8:
        return None
    code = cv2.COLOR_GRAY2RGB if array.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(array, code), np.uint8)


def _check_file(path: Path) -> None:
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise FoldcamError(f"{path} {reason}.")
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not start:
        raise FoldcamError(f"{path} is empty (0 bytes).")
    if start.startswith(_PLAYLISTS):
        raise FoldcamError(f"{path} is a playlist, not a video: give the video itself.")
