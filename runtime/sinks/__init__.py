"""Where results go: pictures, videos, JSON lines, Parquet, a broker, events, a window.

docs/extending.md says how to write the next one.
"""

from __future__ import annotations

from foldcam.runtime.sinks.base import NotWritten, Reopens, Sink, StopRequested
from foldcam.runtime.sinks.opening import open_outputs, open_sinks

__all__ = ["NotWritten", "Reopens", "Sink", "StopRequested", "open_outputs", "open_sinks"]
