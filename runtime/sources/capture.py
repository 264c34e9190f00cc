"""OpenCV's captures behind one small interface: cameras of this machine, CSI, streams."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from foldcam.runtime.images.opencv import has, quiet
from foldcam.runtime.images.pixel_limit import check_pixels
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.sources.address import Address
from foldcam.runtime.sources.camera import camera_failure, csi_pipeline
from foldcam.runtime.sources.options import Decoding, SourceOptions
from foldcam.runtime.system.errors import FoldcamError

FAILED_READS = 100
"""Failed reads in a row that are the end of a source."""
FAILING_SECONDS = 2.0
"""Or so long without a picture, of a live source."""

_DEV, _SYSFS = Path("/dev"), Path("/sys/class/video4linux")


class Capture(Protocol):
    """Something opened that delivers pictures; used by one thread."""

    @property
    def fps(self) -> float | None:
        """Frames per second as it claims; None if it does not."""

    @property
    def bad(self) -> int:
        """Pictures so far that could not be decoded, and were followed by one that could."""

    def read(self) -> Image | None:
        """The next picture, `uint8 [H, W, 3]` RGB in memory of its own; None at the end."""

    def release(self) -> None:
        """Close it."""


class CvCapture:
    """A `cv2.VideoCapture`. Decoded pictures go through one buffer that is used again.

    OpenCV says the same, "not read", of a picture that cannot be decoded and of the end. It
    is asked again: behind a bad picture the next one comes, behind the end nothing does, and
    nothing comes at once.

    Args:
        live: whether a read that fails slowly is the end, too: nothing came for so long.
    """

    def __init__(
        self, capture: cv2.VideoCapture, name: str = "the source", *, live: bool = True
    ) -> None:
        self._capture = capture
        self._name = name
        self._failing_seconds = FAILING_SECONDS if live else math.inf
        self._shape: tuple[int, ...] = ()
        self.bad = 0
        self._decoded: cv2.typing.MatLike | None = None
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = float(rate) if 0 < rate <= 1000 else None

    def read(self) -> Image | None:
        """The next picture; those before it that cannot be decoded are counted."""
        failed, begun = 0, time.monotonic()
        while (image := self._read_once()) is None:
            failed += 1
            # A camera that is unplugged may take its time for every failure.
            if failed >= FAILED_READS or time.monotonic() - begun > self._failing_seconds:
                return None
        self.bad += failed
        return image

    def _read_once(self) -> Image | None:
        """One that OpenCV reports as read and leaves empty counts as none: a failed read
        must never reach the network.
        """
        try:
            if self._decoded is None:
                done, frame = self._capture.read()
            else:
                done, frame = self._capture.read(self._decoded)
        except cv2.error:
            return None
        array = np.asarray(frame)
        if not done or array.size == 0 or array.dtype != np.uint8:
            return None
        if array.shape != self._shape:
            check_pixels(array.shape[1], array.shape[0], self._name)
            self._shape = array.shape
        self._decoded = frame
        code = cv2.COLOR_GRAY2RGB if array.ndim == 2 else cv2.COLOR_BGR2RGB
        try:
            return np.asarray(cv2.cvtColor(array, code), np.uint8)
        except (cv2.error, MemoryError):
            raise FoldcamError(
                f"{self._name} has frames of {array.shape[1]} x {array.shape[0]} pixels, which "
                "need more memory than there is."
            ) from None

    def release(self) -> None:
        """Close it."""
        self._capture.release()


def check_possible(address: Address) -> None:
    """Raise what no waiting would fix."""
    if address.kind == "stream" and not has("FFMPEG"):
        raise FoldcamError(
            f"{address.name} cannot be opened: this OpenCV was built without FFmpeg (see `runtime "
            "doctor`)."
        )
    if address.kind == "csi" and not has("GStreamer"):
        raise FoldcamError(
            f"{address.name} cannot be opened: this OpenCV was built without GStreamer, as those "
            "of package indexes are; use JetPack's own (python3-opencv, and an environment made "
            "with --system-site-packages)."
        )


def open_capture(address: Address, timeout: float) -> CvCapture:
    """Open a live source; this may take as long as it likes, so call it in a thread.

    Args:
        address: of the kind `v4l2`, `csi` or `stream`.
        timeout: seconds after which FFmpeg gives up opening or reading.
    """
    quiet()
    if address.kind == "v4l2":
        return _open_camera(address)
    if address.kind == "csi":
        return _open_csi(address)
    return _open_stream(address, timeout)


def _open_camera(address: Address) -> CvCapture:
    linux = sys.platform.startswith("linux")
    number = _number(address.target)
    if not linux or Path(address.target).exists():
        backend = cv2.CAP_V4L2 if linux and has("v4l/v4l2") else cv2.CAP_ANY
        try:
            capture = cv2.VideoCapture(address.target if number is None else number, backend)
            if capture.isOpened():
                _ask(capture, address.options)
                return CvCapture(capture, address.name)
        except cv2.error:
            pass
    if number is None:
        there = "is in use or delivers no pictures" if os.path.exists(address.target) else "is gone"  # noqa: PTH110
        raise FoldcamError(f"{address.name} cannot be opened: it {there}.")
    raise FoldcamError(camera_failure(number, _DEV, _SYSFS))


def _ask(capture: cv2.VideoCapture, options: SourceOptions) -> None:
    """Ask a camera for what the user wants; it gives the nearest that it can."""
    # The codec first: it decides which sizes and rates there are.
    if options.codec is not None:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.codec))
    for name, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, options.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, options.height),
        (cv2.CAP_PROP_FPS, options.fps),
    ):
        if value is not None:
            capture.set(name, value)
    # The newest frame matters, not those that waited in the driver.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)


def _open_csi(address: Address) -> CvCapture:
    try:
        pipeline = csi_pipeline(int(address.target), address.options)
        capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
        opened = capture.isOpened()
    except cv2.error:
        opened = False
    if not opened:
        raise FoldcamError(
            f"{address.name} cannot be opened: its GStreamer pipeline does not start (is the "
            "sensor configured, and nvargus-daemon running?)."
        )
    return CvCapture(capture, address.name)


def _open_stream(address: Address, timeout: float) -> CvCapture:
    limit = max(1, round(1e3 * timeout))
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    try:
        capture = cv2.VideoCapture(
            _with_transport(address), cv2.CAP_FFMPEG, [*limits, *decoding(address.options.decode)]
        )
        opened = capture.isOpened()
    except cv2.error:
        opened = False
    if not opened:
        raise FoldcamError(
            f"{address.name} cannot be opened: nobody answers there, access is refused, or it is "
            f"no video stream (waited at most {timeout:g} s)."
        )
    return CvCapture(capture, address.name)


def decoding(decode: Decoding) -> list[int]:
    """Where FFmpeg decodes, as parameters of a `cv2.VideoCapture`."""
    if decode == "auto":
        return []
    wanted = cv2.VIDEO_ACCELERATION_ANY if decode == "hardware" else cv2.VIDEO_ACCELERATION_NONE
    return [cv2.CAP_PROP_HW_ACCELERATION, wanted]


def _with_transport(address: Address) -> str:
    """FFmpeg takes RTSP's transport from the end of the query, and strips it."""
    if not address.target.lower().startswith(("rtsp:", "rtsps:")):
        return address.target
    joint = "&" if "?" in address.target else "?"
    return f"{address.target}{joint}{address.options.transport}"


def _number(device: str) -> int | None:
    number = device.removeprefix("/dev/video")
    return int(number) if number.isascii() and number.isdigit() else None
