"""Events to a folder, with snapshots, and to the callbacks of other sinks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import Boxes, capture_time, record
from foldcam.runtime.sinks.base import NotWritten, Sink, check_writable
from foldcam.runtime.sinks.event_rules.detector import Detector, Event
from foldcam.runtime.sinks.event_rules.rule import EventRule
from foldcam.runtime.sinks.growing import GrowingLines
from foldcam.runtime.sinks.guard import DiskGuard
from foldcam.runtime.sinks.segments import Segments
from foldcam.runtime.sources.base import Source

LINES = "events.jsonl"


class EventSink(Sink):
    """Writes a line and two pictures per event.

    `FOLDER/events.jsonl` grows by one whole line at a time, over all runs: it may be read while
    it is written. `FOLDER/NAME-20261126T215914Z-000042.jpg` is the overlay, and the file with
    `-raw` behind NAME is the frame as it came.

    Args:
        folder: where lines and pictures go; None writes nothing and only calls the callbacks.
        callbacks: each is called with every event's document, see `event_document`.
        keep_bytes: the size that the overlays of one rule may have, and its raw frames; above it
            the oldest are removed.
        guard: watches the free space; None for sources whose frames must not be lost.
    """

    name = "events"

    def __init__(
        self,
        rules: Sequence[EventRule],
        sources: Sequence[Source],
        folder: Path | None,
        callbacks: Sequence[Callable[[dict[str, Any]], None]] = (),
        keep_bytes: float | None = None,
        guard: DiskGuard | None = None,
    ) -> None:
        self._detector = Detector(
            rules, [source.stills for source in sources], [source.live for source in sources]
        )
        self._folder, self._callbacks, self._guard = folder, tuple(callbacks), guard
        self.output = None if folder is None else f"{folder}/"
        self._lines: GrowingLines | None = None
        self._overlays: dict[str, Segments] = {}
        self._raws: dict[str, Segments] = {}
        if folder is not None:
            check_writable(folder)
            self._lines = GrowingLines(folder / LINES, "event", follow=False)
            for rule in rules:
                self._overlays[rule.name] = Segments(folder / f"{rule.name}.jpg", keep_bytes)
                self._raws[rule.name] = Segments(folder / f"{rule.name}-raw.jpg", keep_bytes)

    def close(self, failed: bool) -> None:  # noqa: ARG002
        """Let go of the file of lines, which stays whatever happened."""
        if self._lines is not None:
            self._lines.close()

    def reopen(self) -> None:
        """Go on after a failure."""
        if self._folder is not None:
            check_writable(self._folder)

    def write(self, item: FrameResults) -> None:
        """Find the events of one frame, write them and call the callbacks."""
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
            for callback in self._callbacks:
                callback(document)
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
    """An event as JSON values: `event`, `rule` (its conditions), `number`, the region's record.

    Of a rule with a box, `shares` say how much of the region's evidence lies in it.
    """
    return {
        "event": event.rule.name,
        "rule": event.rule.conditions,
        "number": event.number,
        **record(event.item.frame, event.result, embedding=False, boxes=boxes_of([event.rule])),
    }


def boxes_of(rules: Sequence[EventRule]) -> Boxes:
    """The boxes of rules, by the rules' names."""
    return {rule.name: rule.heat_in for rule in rules if rule.heat_in is not None}
