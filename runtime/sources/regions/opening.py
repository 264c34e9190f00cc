"""From what the user asked for to regions."""

from __future__ import annotations

from pathlib import Path

from foldcam.runtime.sources.options import RegionOptions
from foldcam.runtime.sources.regions.box_file import BoxFile
from foldcam.runtime.sources.regions.detector import Detector
from foldcam.runtime.sources.regions.finders import FixedBoxes, Grid
from foldcam.runtime.sources.regions.regions import Regions
from foldcam.runtime.system.errors import FoldcamError

OFTEN = 8
"""Boxes on a frame, where nothing is known of it."""


def open_regions(options: RegionOptions) -> Regions | None:
    """The regions that a user asked for; None where the network is shown whole frames."""
    asked = [
        name
        for name, value in (
            ("boxes", options.boxes),
            ("a grid", options.grid),
            ("a detector", options.detector),
            ("a file of boxes", options.file),
        )
        if value
    ]
    if len(asked) > 1:
        raise FoldcamError(f"Regions are asked for as {' and as '.join(asked)}: give one of them.")
    if options.boxes:
        for box in options.boxes:
            if box[2] < 1 or box[3] < 1:
                raise FoldcamError(f"The box {','.join(map(str, box))} has no area.")
        return Regions(FixedBoxes(options.boxes), "The list of boxes", len(options.boxes))
    if options.grid:
        columns, rows = options.grid
        if min(columns, rows) < 1:
            raise FoldcamError(f"A grid of {columns} x {rows} has no cells: give 2x2, for example.")
        return Regions(Grid(columns, rows), "The grid", columns * rows)
    if options.detector:
        detector = Detector(options.detector)
        return Regions(detector, detector.name, OFTEN)
    if options.file:
        file = BoxFile(Path(options.file))
        return Regions(file, file.name, file.most)
    return None
