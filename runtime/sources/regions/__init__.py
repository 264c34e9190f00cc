"""Which parts of a frame the network is shown: given boxes, a grid, a detector, a file."""

from __future__ import annotations

from foldcam.runtime.sources.regions.opening import open_regions
from foldcam.runtime.sources.regions.regions import Finder, Regions

__all__ = ["Finder", "Regions", "open_regions"]
