"""Where frames come from: photographs, videos, cameras, streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foldcam.runtime.system.lazy import lazy_names

if TYPE_CHECKING:
    from foldcam.runtime.sources.base import Attached as Attached
    from foldcam.runtime.sources.base import Frame as Frame
    from foldcam.runtime.sources.base import Link as Link
    from foldcam.runtime.sources.base import Skip as Skip
    from foldcam.runtime.sources.base import Source as Source
    from foldcam.runtime.sources.opening import open_source as open_source

_HOMES = {
    **dict.fromkeys(
        ("Attached", "Frame", "Link", "Skip", "Source"), "foldcam.runtime.sources.base"
    ),
    "open_source": "foldcam.runtime.sources.opening",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
