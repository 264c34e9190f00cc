"""Where results go: pictures, videos, JSON lines, a window."""

from __future__ import annotations

from runtime.sinks.base import Sink, StopRequested
from runtime.sinks.opening import open_sinks

__all__ = ["Sink", "StopRequested", "open_sinks"]
