"""foldcam's own version."""

from __future__ import annotations


def version() -> str:
    """The installed version, or `checkout` where foldcam is run without being installed."""
    # It brings the reader of mail headers along, which no frame needs.
    from importlib import metadata

    try:
        return metadata.version("foldcam")
    except metadata.PackageNotFoundError:
        return "checkout"
