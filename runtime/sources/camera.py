"""Live sources: a camera of this machine, or a stream from the network."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from types import TracebackType

import cv2

from runtime.errors import FoldcamError
from runtime.images import natural_key
from runtime.opencv import has, quiet
from runtime.sources.base import Frame, Skip
from runtime.sources.video import read_rgb
from runtime.text import printable

_OPEN_TIMEOUT_MS = 10_000
_READ_TIMEOUT_MS = 10_000


class LiveSource:
    """Frames as they come. Ends when the camera or stream does.

    Args:
        capture: opened.
        name: what the user asked for, without credentials.
        stem: names the outputs.
    """

    stills = False
    live = True
    frames: int | None = None

    def __init__(self, capture: cv2.VideoCapture, name: str, stem: str) -> None:
        self._capture = capture
        self.name = name
        self.stem = stem
        self.skipped: list[Skip] = []
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = float(rate) if 0 < rate <= 240 else None

    def __enter__(self) -> LiveSource:
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
        first = 0.0
        while (image := read_rgb(self._capture)) is not None:
            now = time.monotonic()
            first = first if index else now
            yield Frame(image, index, self.name, PurePath(self.stem), now - first, now)
            index += 1
        reason = f"stopped delivering after {index} frames" if index else "delivered no frame"
        self.skipped.append(Skip(self.name, reason))


def open_camera(number: int) -> LiveSource:
    """A camera of this machine.

    Raises:
        FoldcamError: it cannot be opened; the message lists the cameras that exist.
    """
    quiet()
    linux = sys.platform.startswith("linux")
    device = Path(f"/dev/video{number}")
    if not linux or device.exists():
        backend = cv2.CAP_V4L2 if linux and has("v4l/v4l2") else cv2.CAP_ANY
        try:
            capture = cv2.VideoCapture(number, backend)
            if capture.isOpened():
                # The newest frame matters, not those that waited in the driver.
                capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
                return LiveSource(capture, f"camera {number}", f"camera-{number}")
        except cv2.error:
            pass
    raise FoldcamError(camera_failure(number, Path("/dev"), Path("/sys/class/video4linux")))


def open_stream(uri: str, name: str, stem: str) -> LiveSource:
    """A stream that FFmpeg reads (rtsp, http, tcp, udp).

    Args:
        uri: with credentials, if it needs some.
        name: the same without credentials.
        stem: names the outputs.

    Raises:
        FoldcamError: OpenCV was built without FFmpeg, or nobody answers.
    """
    quiet()
    if not has("FFMPEG"):
        raise FoldcamError(
            f"{name} cannot be opened: this OpenCV was built without FFmpeg (see `runtime doctor`)."
        )
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS,
    ]  # fmt: skip
    try:
        capture = cv2.VideoCapture(uri, cv2.CAP_FFMPEG, limits)
        opened = capture.isOpened()
    except cv2.error:
        opened = False
    if not opened:
        raise FoldcamError(
            f"{name} cannot be opened: nobody answers there, access is refused, or it is no video "
            f"stream (waited at most {_OPEN_TIMEOUT_MS // 1000} s)."
        )
    return LiveSource(capture, name, stem)


def video_devices(dev: Path, sysfs: Path) -> list[tuple[str, str]]:
    """The video devices that exist, as `(path, name)`; the name may be empty.

    Args:
        dev: `/dev`.
        sysfs: `/sys/class/video4linux`, whose entries hold the names.
    """
    found: list[tuple[str, str]] = []
    for path in sorted(dev.glob("video[0-9]*"), key=natural_key):
        try:
            name = (sysfs / path.name / "name").read_text("utf-8", "replace").strip()
        except OSError:
            name = ""
        found.append((str(path), printable(name)))
    return found


def camera_failure(number: int, dev: Path, sysfs: Path) -> str:
    """One sentence about why a camera cannot be opened."""
    devices = video_devices(dev, sysfs)
    device = dev / f"video{number}"
    if not devices:
        return (
            f"Camera {number} cannot be opened: no video device exists on this machine "
            f"(looked for {dev}/video*); plug one in, or use --file PATH."
        )
    listed = ", ".join(f"{path} ({name})" if name else path for path, name in devices)
    if not device.exists():
        return f"Camera {number} cannot be opened: {device} does not exist; there are {listed}."
    if not os.access(device, os.R_OK | os.W_OK):
        return (
            f"Camera {number} cannot be opened: no permission for {device}; add yourself to its "
            "group with `sudo usermod -aG video $USER` and log in again."
        )
    return (
        f"Camera {number} cannot be opened: {device} is in use by another program or delivers no "
        f"pictures; there are {listed}."
    )
