"""The cameras of this machine by name, and why one of them cannot be opened."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

from foldcam.runtime.images.files import natural_key
from foldcam.runtime.sources.options import SourceOptions
from foldcam.runtime.system.text import printable

WIDTH, HEIGHT, RATE = 1280, 720, 30.0


def video_devices(dev: Path, sysfs: Path) -> list[tuple[str, str]]:
    """The video devices that exist, as `(path, name)`; the name may be empty."""
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


def csi_pipeline(sensor: int, options: SourceOptions) -> str:
    """What `csi://` opens, as `gst-launch-1.0` would take it with another end.

    `nvarguscamerasrc` delivers into the GPU's memory (NVMM), `nvvidconv` brings the picture
    to the processor, and `appsink` keeps the newest one only. See NVIDIA's Accelerated
    GStreamer guide.

    Args:
        options: width, height and fps; where they are not given, 1280 x 720 at 30.
    """
    width, height = options.width or WIDTH, options.height or HEIGHT
    rate = Fraction(options.fps or RATE).limit_denominator(1001)
    return " ! ".join(
        (
            f"nvarguscamerasrc sensor-id={sensor}",
            f"video/x-raw(memory:NVMM), width={width}, height={height}, "
            f"framerate={rate.numerator}/{rate.denominator}",
            "nvvidconv",
            "video/x-raw, format=BGRx",
            "videoconvert",
            "video/x-raw, format=BGR",
            "appsink drop=true max-buffers=1 sync=false",
        )
    )
