"""Where frames come from: photographs, videos, cameras, streams."""

from __future__ import annotations

from runtime.sources.base import Frame, Skip, Source
from runtime.sources.opening import open_source

__all__ = ["Frame", "Skip", "Source", "open_source"]
