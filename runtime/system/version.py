"""Versions: foldcam's own, and those of the packages beside it."""

from __future__ import annotations

from collections.abc import Iterable


def version() -> str:
    """The installed version, or `checkout` where foldcam is run without being installed."""
    # It brings the reader of mail headers along, which no frame needs.
    from importlib import metadata

    try:
        return metadata.version("foldcam")
    except metadata.PackageNotFoundError:
        return "checkout"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of foldcam, of Python, and of those of the packages that are installed."""
    import platform
    from importlib import metadata

    found = {"foldcam": version(), "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
