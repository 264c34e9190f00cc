"""The cameras of this machine by name, and why one of them cannot be opened."""

from __future__ import annotations

import os
from pathlib import Path

from foldcam.runtime.images.files import natural_key
from foldcam.runtime.system.text import printable


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
