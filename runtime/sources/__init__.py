"""Where frames come from: photographs, videos, cameras, streams."""

from __future__ import annotations

from foldcam.runtime.sources.base import Attached, Frame, Link, Skip, Source
from foldcam.runtime.sources.opening import open_source

__all__ = ["Attached", "Frame", "Link", "Skip", "Source", "open_source"]
