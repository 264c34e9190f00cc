"""Where sinks that users wrote find `FrameResults`: it is in `runtime.frame_results` now."""

from typing import Any

from foldcam.runtime.lazy import lazy_names

_load, __dir__ = lazy_names(__name__, {"FrameResults": "foldcam.runtime.frame_results"})


def __getattr__(name: str) -> Any:
    return _load(name)
