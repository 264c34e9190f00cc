"""Events to a folder, with snapshots, and to whoever else wants to know."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from runtime.errors import FoldcamError
from runtime.events.detector import Detector, Event
from runtime.events.language import Rule
from runtime.files import user_errors_for, write_failure
from runtime.images import write_image
from runtime.seen import Seen
from runtime.sinks.base import NotWritten, PendingFile
from runtime.sinks.guard import DiskGuard
from runtime.sinks.record import capture_time, record
from runtime.sinks.segments import Segments
from runtime.sources.base import Source

LINES = "events.jsonl"


class EventSink:
    """Writes a line and two pictures per event.

    `FOLDER/events.jsonl` grows by one whole line at a time and is never begun anew: it may be
    read while it is written. `FOLDER/NAME-20261126T215914Z-000042.jpg` is the overlay,
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
        self._overlays: dict[str, Segments] = {}
        self._raws: dict[str, Segments] = {}
        if folder is not None:
            with user_errors_for(folder / LINES):
                folder.mkdir(parents=True, exist_ok=True)
            PendingFile(folder / "probe").abandon()
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
        pass

    def reopen(self) -> None:
        """Go on after a failure.

        Raises:
            FoldcamError: the folder cannot be written yet.
        """
        if self._folder is not None:
            PendingFile(self._folder / "probe").abandon()

    def write(self, seen: Seen) -> None:
        """Look for events in one frame, and tell them."""
        lost = ""
        for event in self._detector.events(seen):
            document = event_document(event)
            if self._folder is not None:
                if self._guard is None or self._guard.has_room():
                    document.update(self._snapshots(event))
                else:
                    lost = self._guard.reason
                _append(self._folder / LINES, document)
            for tell in self._tell:
                tell(document)
        if lost:
            raise NotWritten(lost)

    def _snapshots(self, event: Event) -> dict[str, str]:
        name, frame = event.rule.name, event.seen.frame
        when = capture_time(frame)
        overlay, raw = self._overlays[name], self._raws[name]
        paths = {"snapshot": overlay.next(when), "raw": raw.next(when)}
        write_image(paths["snapshot"], event.seen.image)
        write_image(paths["raw"], frame.image)
        overlay.trim()
        raw.trim()
        return {kind: path.name for kind, path in paths.items()}


def event_document(event: Event) -> dict[str, Any]:
    """An event as JSON values: `event`, `rule`, `number`, and the region's record."""
    return {
        "event": event.rule.name,
        "rule": event.rule.text,
        "number": event.number,
        **record(event.seen.frame, event.result, embedding=False),
    }


def _append(path: Path, document: dict[str, Any]) -> None:
    data = (json.dumps(document, allow_nan=False) + "\n").encode()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # One call, so that the line is there as a whole or not at all when we are killed.
            if os.write(handle, data) != len(data):
                raise FoldcamError(
                    f"No space left on the disk of {path.parent}: free some, or write elsewhere."
                )
        finally:
            os.close(handle)
    except OSError as error:
        raise FoldcamError(write_failure(path, error)) from error
