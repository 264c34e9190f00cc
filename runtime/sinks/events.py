"""Events to a folder, with snapshots, and to whoever else wants to know."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from foldcam.runtime.drawing.frame_results import FrameResults
from foldcam.runtime.events.detector import Detector, Event
from foldcam.runtime.events.language import Rule
from foldcam.runtime.sinks.base import NotWritten, check_writable
from foldcam.runtime.sinks.growing import GrowingLines
from foldcam.runtime.sinks.guard import DiskGuard
from foldcam.runtime.sinks.record import capture_time, record
from foldcam.runtime.sinks.segments import Segments
from foldcam.runtime.sources.base import Source

LINES = "events.jsonl"


class EventSink:
    """Writes a line and two pictures per event.

    `FOLDER/events.jsonl` grows by one whole line at a time, over all runs: it may be read while
    it is written. `FOLDER/NAME-20261126T215914Z-000042.jpg` is the overlay,
    and the same with `-raw` the frame as it came.

    Args:
        rules: understood.
        sources: of the run.
        folder: None writes nothing and only tells.
        tell: each gets every event's document.
        keep_bytes: of each rule's overlays, and of its raw frames; the oldest go above it.
        guard: of the disk; None for sources whose frames must not be lost.

    Raises:
        FoldcamError: the folder cannot be written.
    """

    name = "events"
    may_skip = False

    def __init__(
        self,
        rules: Sequence[Rule],
        sources: Sequence[Source],
        folder: Path | None,
        tell: Sequence[Callable[[dict[str, Any]], None]] = (),
        keep_bytes: float | None = None,
        guard: DiskGuard | None = None,
    ) -> None:
        self._detector = Detector(
            rules, [source.stills for source in sources], [source.live for source in sources]
        )
        self._folder, self._tell, self._guard = folder, tuple(tell), guard
        self.output: str | None = None if folder is None else f"{folder}/"
        self._lines: GrowingLines | None = None
        self._overlays: dict[str, Segments] = {}
        self._raws: dict[str, Segments] = {}
        if folder is not None:
            check_writable(folder)
            self._lines = GrowingLines(folder / LINES, "event", follow=False)
            for rule in rules:
                self._overlays[rule.name] = Segments(folder / f"{rule.name}.jpg", keep_bytes)
                self._raws[rule.name] = Segments(folder / f"{rule.name}-raw.jpg", keep_bytes)

    def __enter__(self) -> EventSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lines is not None:
            self._lines.close()

    def reopen(self) -> None:
        """Go on after a failure.

        Raises:
            FoldcamError: the folder cannot be written yet.
        """
        if self._folder is not None:
            check_writable(self._folder)

    def write(self, item: FrameResults) -> None:
        """Look for events in one frame, and tell them."""
        lost = ""
        for event in self._detector.events(item):
            document = event_document(event)
            if self._folder is not None:
                if self._guard is None or self._guard.has_room():
                    document.update(self._snapshots(event))
                else:
                    lost = self._guard.reason
                assert self._lines is not None
                self._lines.append(f"{json.dumps(document, allow_nan=False)}\n".encode())
            for tell in self._tell:
                tell(document)
        if lost:
            raise NotWritten(lost)

    def _snapshots(self, event: Event) -> dict[str, str]:
        name, frame = event.rule.name, event.item.frame
        when = capture_time(frame)
        overlay, raw = self._overlays[name], self._raws[name]
        paths = {
            "snapshot": overlay.write_image(event.item.image, when),
            "raw": raw.write_image(frame.image, when),
        }
        overlay.trim()
        raw.trim()
        return {kind: path.name for kind, path in paths.items()}


def event_document(event: Event) -> dict[str, Any]:
    """An event as JSON values: `event`, `rule`, `number`, and the region's record."""
    return {
        "event": event.rule.name,
        "rule": event.rule.text,
        "number": event.number,
        **record(event.item.frame, event.result, embedding=False),
    }
