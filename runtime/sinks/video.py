"""The annotated video."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2

from foldcam.runtime.images.preprocess import Image, Preprocessing
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks.base import Part, PendingFile, refuse_input
from foldcam.runtime.sinks.encoders import FALLBACKS, Encoder, open_encoder, playable_frames
from foldcam.runtime.sources import Source
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import no_room
from foldcam.runtime.system.logs import log

VIDEO_OUTPUTS = tuple(FALLBACKS)
LIVE_FPS = 25.0
STILLS_FPS = 1.0
_LONGEST_REPEAT_S = 10.0
_ROOM_BYTES = 1 << 20
# Left on the disk of a live film, so that its end, without which some films do not play, can
# still be written: the encoder never says that a disk is full, and writes nothing more after it.
_MARGIN_BYTES = 8 << 20
_MARGIN_SHARE = 1 / 16


class VideoSink(Part):
    """A video of the overlays, which has its name only when it can be played.

    A recorded source gives one frame each at its own rate. A live source is written at
    a constant rate in real time: frames are repeated or left out by their timestamps,
    so that a slow network does not make a fast film. Its film is ended before the disk is full,
    and of one that was cut all the same what can be played is kept, and the rest counted.

    Args:
        path: `.mp4`, `.avi` or `.mkv`.
        begun: the timestamp at which the film of a live source begins; the first frame's
            unless given.
        another: gives another name if the name is taken at the end; None replaces the file.
    """

    name = "video"

    def __init__(
        self,
        path: Path,
        source: Source,
        begun: float | None = None,
        another: Callable[[], Path] | None = None,
    ) -> None:
        refuse_input(path, source.name)
        self._source = source
        self._live = source.live
        self._fps = 0.0
        self._begun = begun
        self._writer: Encoder | None = None
        self._frame_wh = (0, 0)
        self._written = 0
        self._results = 0
        self._lost, self._reason = 0, ""
        self._file = PendingFile(path, another)
        self.output = str(path)

    @property
    def size(self) -> int:
        """Bytes that reached the file; the encoder holds some more back."""
        return self._file.size

    def close(self, failed: bool) -> None:
        """Give the film its name if it can be played, or remove it after a failure."""
        try:
            if self._writer is not None:
                self._writer.release()
            if not failed and self._written:
                if self._live:
                    self._keep_playable()
                else:
                    self._check_playable()
                    self._file.finish()
        finally:
            self._file.abandon()

    def rescue(self) -> None:
        """Finish the film with what can be played of it."""
        if self._writer is not None:
            self._writer.release()
        with suppress(FoldcamError):
            if self._written:
                self._keep_playable()
        self._file.abandon()

    def losses(self) -> tuple[int, str]:
        """Results that were taken and cannot be played, and why."""
        return self._lost, self._reason

    def write(self, item: FrameResults) -> None:
        """Append one frame; it is fitted into the size of the first one."""
        if self._live:
            self._check_margin()
        if self._writer is None:
            # A live source may know its rate only once it delivers.
            source = self._source
            self._fps = source.fps or (STILLS_FPS if source.stills else LIVE_FPS)
        repeats = self._repeats(item.frame.timestamp)
        self._results += 1
        if repeats == 0:
            return
        image = item.image
        if self._writer is None:
            self._open(image)
        assert self._writer is not None
        if (image.shape[1], image.shape[0]) != self._frame_wh:
            image = _fitted(image, self._frame_wh)
        for _ in range(repeats):
            try:
                self._writer.write(image)
            except FoldcamError as error:
                self._check_room()
                raise FoldcamError(f"{self._file.path} could not be written: {error}.") from error
            self._written += 1

    def _repeats(self, timestamp: float) -> int:
        if not self._live:
            return 1
        if self._begun is None:
            self._begun = timestamp
        due = round((timestamp - self._begun) * self._fps) + 1 - self._written
        longest = max(1, round(_LONGEST_REPEAT_S * self._fps))
        if not -longest <= due <= longest:
            self._begun = timestamp - self._written / self._fps
            return 1
        return max(0, due)

    def _open(self, image: Image) -> None:
        # H.264 and MPEG-4 store chroma at half size: an odd row or column would be cut off.
        height, width = image.shape[:2]
        self._frame_wh = (width + width % 2, height + height % 2)
        try:
            self._writer = open_encoder(
                self._file.temporary, self._fps, self._frame_wh, self._file.lock
            )
        except FoldcamError as error:
            self._check_room()
            raise FoldcamError(f"{self._file.path} cannot be encoded: {error}.") from error

    def _check_playable(self) -> None:
        """OpenCV's encoder reports no error, not even a full disk: read the film back."""
        counted = playable_frames(self._file.temporary, self._written)
        if counted < self._written:
            self._check_room()
            raise FoldcamError(
                f"{self._file.path} could not be written completely ({counted} of "
                f"{self._written} frames): check the disk, or write elsewhere."
            )

    def _keep_playable(self) -> None:
        counted = playable_frames(self._file.temporary, self._written)
        if counted:
            self._file.finish()
        if counted < self._written:
            missing = self._written - counted
            self._lost = max(1, round(self._results * missing / self._written))
            self._reason = (
                f"{counted} of {self._written} frames of {self._file.path} can be played: its "
                "disk was full or failed"
            )
            if not counted and self._file.path.suffix.lower() == ".mp4":
                self._reason += ", and an .mp4 that was cut cannot be played (an .mkv can)"
            log.warning("%s", self._reason)

    def _check_margin(self) -> None:
        folder = self._file.path.parent
        try:
            disk = os.statvfs(folder)
        except OSError:
            return  # the disk itself is gone
        margin = min(_MARGIN_BYTES, _MARGIN_SHARE * disk.f_blocks * disk.f_frsize)
        if disk.f_bavail * disk.f_frsize < margin:
            raise FoldcamError(no_room(folder))

    def _check_room(self) -> None:
        folder = self._file.path.parent
        if shutil.disk_usage(folder).free < _ROOM_BYTES:
            raise FoldcamError(no_room(folder))


def _fitted(image: Image, frame_wh: tuple[int, int]) -> Image:
    if (image.shape[1] + image.shape[1] % 2, image.shape[0] + image.shape[0] % 2) == frame_wh:
        below, right = frame_wh[1] - image.shape[0], frame_wh[0] - image.shape[1]
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
        return padded.astype(image.dtype, copy=False)
    black = (0.0, 0.0, 0.0)
    return Preprocessing(frame_wh[0], frame_wh[1], "letterbox", mean=black).resized(image)[0]
