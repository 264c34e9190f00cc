"""The one call that runs everything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.result import Result
from foldcam.runtime.pipeline.conductor import Conductor
from foldcam.runtime.pipeline.summary import Progress, Summary
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sources import Source
from foldcam.runtime.sources.options import FlowOptions, RegionOptions
from foldcam.runtime.sources.regions import Regions
from foldcam.runtime.system.monitor import Monitor


def run(
    sources: Source | Sequence[Source],
    model: FoldedModel | Callable[[Image], Result],
    sinks: Sequence[Sink] = (),
    on_progress: Callable[[Progress], None] | None = None,
    *,
    flow: FlowOptions | None = None,
    regions: Regions | RegionOptions | None = None,
    monitor: Monitor | None = None,
    style: Style | None = None,
    stop: threading.Event | None = None,
    gallery: Gallery | None = None,
) -> Summary:
    """Give the frames of all sources to the model and the results to every sink.

    Recorded sources lose no frame, in order: a slow sink slows them down. Of live ones the
    newest frame counts, and a slow sink loses results; everything lost is counted by its
    cause. SIGINT, SIGTERM and `stop` end the run at once, whatever it waits for: the sinks
    are closed and what they wrote is complete.

    Args:
        sources: one or several; closed at the end, as the sinks are.
        model: a `FoldedModel`, or any function from a photograph to a `Result`.
        on_progress: called by this thread, at most twenty times a second and once at the end.
        flow: what is kept, how much may wait, and what happens when something fails.
        regions: which parts of a frame the network is shown; None: all of it.
        monitor: receives every event of the run; one is made if it is None.
        gallery: of the model, for a style or a sink that shows the pictures that were matched.

    Example:
        >>> with FoldedModel.load("model.onnx") as model:
        ...     summary = run(open_source("film.mp4"), model)
        >>> summary.frames
        250
    """
    given = list(sources) if isinstance(sources, Sequence) else [sources]
    if not given:
        raise ValueError("a run needs at least one source")
    return Conductor(
        given, model, sinks, on_progress, flow or FlowOptions(), regions, monitor or Monitor(),
        style or Style(), stop or threading.Event(), gallery,
    ).run()  # fmt: skip
