"""foldcam's own version."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The installed version, or `checkout` where foldcam is run without being installed."""
    try:
        return metadata.version("foldcam")
    except metadata.PackageNotFoundError:
        return "checkout"
