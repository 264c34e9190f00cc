"""Starts the stages of a run, watches over them, and ends them in order."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.result import Result
from foldcam.runtime.model.unanswered import ZERO
from foldcam.runtime.pipeline.control import Control
from foldcam.runtime.pipeline.inbox import Inbox, Reader
from foldcam.runtime.pipeline.inference import Delivery, Inference
from foldcam.runtime.pipeline.preparer import Preparer
from foldcam.runtime.pipeline.sink_thread import GRACE_SECONDS, SinkThread, nobody_left
from foldcam.runtime.pipeline.summary import Progress, Summary, Tally, nothing_usable, summarized
from foldcam.runtime.pipeline.voting import Voter
from foldcam.runtime.pipeline.work import Pending, runner_of
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sources import Source
from foldcam.runtime.sources.options import FlowOptions, RegionOptions
from foldcam.runtime.sources.regions import Regions, open_regions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Cause, Monitor
from foldcam.runtime.system.stopping import StopSignal

TICK_SECONDS = 0.05
READER_GRACE_SECONDS = 2.0
MAX_ROWS = 32
"""Rows of a forward pass over the regions of frames, unless the user chooses otherwise."""
FRAMES_IN_A_ROW = 30
"""Frames of all sources of a live run without an answer, after which the run ends."""


class Conductor:
    """One run, whose arguments are those of `runtime.pipeline.run`."""

    def __init__(
        self,
        sources: list[Source],
        model: FoldedModel | Callable[[Image], Result],
        sinks: Sequence[Sink],
        on_progress: Callable[[Progress], None] | None,
        flow: FlowOptions,
        regions: Regions | RegionOptions | None,
        monitor: Monitor,
        style: Style,
        stop: threading.Event,
        gallery: Gallery | None,
    ) -> None:
        self._sources = sources
        self._sinks = sinks
        self._on_progress = on_progress
        self._flow = flow
        self._monitor = monitor
        self._style = style
        self._stop = stop
        self._gallery = gallery
        self._voter: Voter | None = None
        if flow.vote_seconds is not None:
            stills = [source.stills for source in sources]
            self._voter = Voter(flow.vote_seconds, stills, [source.live for source in sources])
        self._regions = open_regions(regions) if isinstance(regions, RegionOptions) else regions
        self._runner = runner_of(model)
        self._accepted_wrong = model.accepted_wrong if isinstance(model, FoldedModel) else None
        self._control = Control()
        self._newest = [
            source.live if flow.keep == "auto" else flow.keep == "newest" for source in sources
        ]
        frame = model.contract.frame if isinstance(model, FoldedModel) else None
        self._tally = Tally(Progress(_expected(sources), monitor), frame)
        self._answers = Answers(live=any(source.live for source in sources))
        self._sink_threads: list[SinkThread] = []
        self._reading = False
        self._delivered = False
        self._reported = -1
        self._reported_at = 0.0

    def run(self) -> Summary:
        """Start every stage, watch over them, and end them in order."""
        streams = [self._monitor.add_stream(each.name, each.live) for each in self._sources]
        begun = time.monotonic()
        with ExitStack() as stack:
            signals = stack.enter_context(StopSignal())
            stack.callback(self._close_unread)
            for sink in self._sinks:
                sink.__enter__()
                sink_thread = SinkThread(sink, self._control, self._monitor, self._flow)
                self._sink_threads.append(sink_thread)
                stack.push(sink_thread.leave)
            inbox, preparer, inference, delivery = self._stages()
            self._control.when_stopping(inbox.close)
            readers = [
                Reader(source, stream, inbox, self._control, self._monitor)
                for source, stream in zip(self._sources, streams, strict=True)
            ]
            for sink_thread in self._sink_threads:
                if not sink_thread.main_thread:
                    sink_thread.thread = self._start(
                        sink_thread.work, f"sink {sink_thread.sink.name}"
                    )
            passing = [
                self._start(lambda: self._deliver_all(delivery), "delivery"),
                self._start(inference.work, "inference"),
                self._start(preparer.work, "preparer"),
            ]
            self._reading = True
            reading = [self._start(reader.work, f"reader {n}") for n, reader in enumerate(readers)]
            try:
                self._watch(signals)
                self._finish(passing, signals)
            except BaseException as error:
                self._control.fail(error)
                self._abandon(passing)
                raise
            finally:
                deadline = time.monotonic() + READER_GRACE_SECONDS
                for thread in reading:
                    thread.join(max(0.0, deadline - time.monotonic()))
            if not self._tally.progress.frames and not self._control.interrupted:
                raise FoldcamError(nothing_usable(self._sources))
        self._answers.end()
        return summarized(
            self._tally,
            self._monitor,
            self._sources,
            outcomes=[sink_thread.outcome() for sink_thread in self._sink_threads],
            interrupted=self._control.interrupted,
            seconds=time.monotonic() - begun,
            empty_boxes=self._regions.empty if self._regions is not None else 0,
            broken=self._answers.broken,
            accepted_wrong=self._accepted_wrong,
        )

    def _stages(self) -> tuple[Inbox, Preparer, Inference, Delivery]:
        flow, control, monitor = self._flow, self._control, self._monitor
        frames = flow.batch or len(self._sources)
        rows = frames
        if self._regions is not None and flow.batch is None:
            rows = min(MAX_ROWS, self._regions.usual * len(self._sources))
        inbox = Inbox(
            self._newest,
            [source.live for source in self._sources],
            max(flow.queue, frames),
            flow.gather_seconds,
            lambda stream: monitor.dropped(stream, Cause.overtaken),
        )
        preparer = Preparer(
            inbox,
            self._runner,
            control,
            monitor,
            capacity=rows,
            frames=frames,
            find=self._regions,
            tolerant=[source.live for source in self._sources],
            failures=flow.failures,
            # What waits there grows old: of live frames one, which is prepared while the
            # network is busy.
            ahead=1 if all(self._newest) else 2,
        )
        delivery = Delivery(self._runner, control, monitor, self._deliver, room=1)
        inference = Inference(
            self._runner,
            preparer,
            control,
            monitor,
            delivery,
            flow=flow,
            again=[not newest for newest in self._newest],
            patient=not all(source.stills for source in self._sources),
        )
        return inbox, preparer, inference, delivery

    def _start(self, work: Callable[[], None], name: str) -> threading.Thread:
        # Daemons: a thread that is stuck in a library must not keep the process alive.
        thread = threading.Thread(
            target=self._control.guarded(work), name=f"foldcam {name}", daemon=True
        )
        thread.start()
        return thread

    def _deliver(self, pending: Pending) -> None:
        if self._voter is not None:
            pending.results = self._voter.voted(pending.frame, pending.results)
        self._tally.add(pending.results)
        for cause, count in self._answers.add(pending.results).items():
            self._monitor.unanswered(pending.frame.stream, cause, count)
        decided = [each.unknown for each in pending.results if each.unknown is not None]
        if decided:
            self._monitor.unknown(pending.frame.stream, sum(decided))
        if self._answers.broken is not None:
            self._control.end()
        item = FrameResults(
            pending.frame, pending.results, self._style, self._monitor.rendered, self._gallery
        )
        for sink_thread in self._sink_threads:
            sink_thread.put(item, may_be_lost=self._newest[pending.frame.stream])

    def _deliver_all(self, delivery: Delivery) -> None:
        try:
            delivery.work()
        finally:
            # Before the thread has ended, so that nobody waits out a tick for that.
            self._delivered = True

    def _watch(self, signals: StopSignal) -> None:
        """Until the last result was delivered or the run stops."""
        lost = nobody_left(self._sink_threads)
        windows = [sink_thread for sink_thread in self._sink_threads if sink_thread.main_thread]

        def due() -> bool:
            waiting = any(window.waiting for window in windows)
            return waiting or self._control.stopping or self._delivered

        while not (self._delivered or self._control.stopping):
            self._control.wait(due, TICK_SECONDS)
            self._look(signals)
            for window in windows:
                window.pump()
            self._report_progress()
            if (error := lost()) is not None:
                raise error

    def _close_unread(self) -> None:
        """Readers close their sources; if a sink could not be entered there are none."""
        if not self._reading:
            for source in self._sources:
                source.__exit__(None, None, None)

    def _look(self, signals: StopSignal) -> None:
        if signals.requested or self._stop.is_set():
            self._control.interrupt()

    def _finish(self, passing: list[threading.Thread], signals: StopSignal) -> None:
        """Let the sinks write what waits."""
        self._raise_failure()
        windows = [sink_thread for sink_thread in self._sink_threads if sink_thread.main_thread]
        begun = time.monotonic()
        while alive := [thread for thread in passing if thread.is_alive()]:
            if time.monotonic() - begun > GRACE_SECONDS:
                break
            # It may be waiting for room before a window.
            for window in windows:
                window.pump()
            alive[0].join(TICK_SECONDS)
        for sink_thread in self._sink_threads:
            sink_thread.end()
        for window in windows:
            while window.pump():
                pass
        self._let_write(signals)
        self._raise_failure()
        self._report_progress(last=True)

    def _let_write(self, signals: StopSignal) -> None:
        """For as long as it takes; once the user wants the end, for `GRACE_SECONDS`."""
        stopped: float | None = None
        while writing := [sink_thread for sink_thread in self._sink_threads if sink_thread.busy]:
            writing[0].join(TICK_SECONDS)
            self._look(signals)
            if self._control.failure is not None:
                return
            if self._control.stopping:
                stopped = stopped or time.monotonic()
                if time.monotonic() - stopped > GRACE_SECONDS:
                    return

    def _raise_failure(self) -> None:
        if self._control.failure is not None:
            raise self._control.failure

    def _abandon(self, passing: list[threading.Thread]) -> None:
        """Nothing more is written; wait for what is being computed and written.

        The model is closed next, and perhaps the process ends: neither may happen to a thread
        that is inside of a library, unless it is stuck there.
        """
        for sink_thread in self._sink_threads:
            sink_thread.discard()
        deadline = time.monotonic() + GRACE_SECONDS
        for thread in passing:
            thread.join(max(0.0, deadline - time.monotonic()))
        for sink_thread in self._sink_threads:
            sink_thread.join(max(0.0, deadline - time.monotonic()))

    def _report_progress(self, last: bool = False) -> None:
        if self._on_progress is None:
            return
        frames, now = self._tally.progress.frames, time.monotonic()
        # A live source that delivers nothing is just what a user wants to see.
        silent = now - self._reported_at > 0.5 and any(source.live for source in self._sources)
        if last or frames not in (0, self._reported) or silent:
            self._reported, self._reported_at = frames, now
            self._on_progress(self._tally.progress)


def _expected(sources: Sequence[Source]) -> int | None:
    counts = [source.frames for source in sources]
    return None if None in counts else sum(count for count in counts if count is not None)


class Answers:
    """Watches whether the model answers.

    A picture of which a network makes zeros has no answer, and breaks no model. A recording is
    read to its end, since a film may begin or end in black; a live run has no end, and stops
    after `FRAMES_IN_A_ROW` frames without an answer.
    """

    def __init__(self, live: bool) -> None:
        self._live = live
        self._in_a_row = 0
        self._unanswered = 0
        self._answered = False
        self._causes: Counter[str] = Counter()
        self.broken: str | None = None
        """One sentence, once nothing more is to be expected of the model."""

    def add(self, results: Sequence[Result]) -> dict[str, int]:
        """One frame's results; returns how many are no answer, by cause."""
        causes = Counter(result.error for result in results if result.error is not None)
        self._causes.update(causes)
        # Zeros are what a sound network without biases makes of a black picture.
        if len(results) > causes.total() or ZERO in causes:
            self._answered, self._in_a_row = True, 0
        elif results:
            self._in_a_row += 1
            self._unanswered += 1
        if self._live and self._in_a_row >= FRAMES_IN_A_ROW and self.broken is None:
            self.broken = _sentence(f"{self._in_a_row} frames in a row have no answer", causes)
        return dict(causes)

    def end(self) -> None:
        """No more frames come."""
        if self._answered or not self._unanswered or self.broken is not None:
            return
        count = self._unanswered
        frames = "the only frame has" if count == 1 else f"all {count} frames have"
        self.broken = _sentence(f"{frames} no answer", self._causes)


def _sentence(what: str, causes: Counter[str]) -> str:
    (cause, _), *_ = causes.most_common(1)
    return (
        f"The model is broken, or its pictures are: {what}, because {cause}: look at the pictures "
        "(a black one has nothing to compare), or export the network again, in float32."
    )
