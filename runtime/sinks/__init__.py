"""Where results go: pictures, videos, JSON lines, Parquet, a broker, events, a window.

docs/extending.md says how to write the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foldcam.runtime.system.lazy import lazy_names

if TYPE_CHECKING:
    from foldcam.runtime.sinks.base import NotWritten as NotWritten
    from foldcam.runtime.sinks.base import Reopens as Reopens
    from foldcam.runtime.sinks.base import Sink as Sink
    from foldcam.runtime.sinks.base import StopRequested as StopRequested
    from foldcam.runtime.sinks.opening import open_outputs as open_outputs
    from foldcam.runtime.sinks.opening import open_sinks as open_sinks

_BASE, _OPENING = "foldcam.runtime.sinks.base", "foldcam.runtime.sinks.opening"
_HOMES = {
    **dict.fromkeys(("NotWritten", "Reopens", "Sink", "StopRequested"), _BASE),
    **dict.fromkeys(("open_outputs", "open_sinks"), _OPENING),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
