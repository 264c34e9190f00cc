"""Events to a folder, with snapshots, and to the callbacks of other sinks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import Boxes, capture_time, record
from foldcam.runtime.model.result import Result
from foldcam.runtime.sinks.base import NotWritten, Sink, check_writable
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.growing import GrowingLines
from foldcam.runtime.sinks.segments import DiskGuard, Segments
from foldcam.runtime.sources.base import Source
from foldcam.runtime.system.errors import FoldcamError

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


@dataclass(frozen=True, eq=False)
class Event:
    """A rule whose conditions were met.

    Attributes:
        rule: the rule.
        number: counts the events of this rule in this run, from 1.
        item: the frame.
        result: the region of the frame in which the conditions hold.
    """

    rule: EventRule
    number: int
    item: FrameResults
    result: Result


class Watch:
    """Follows one rule on one source, by that source's own times."""

    def __init__(self, rule: EventRule) -> None:
        self._rule = rule
        self._since: float | None = None
        self._reported = False
        self._silent_until = -float("inf")

    def update(self, item: FrameResults, now: float) -> Result | None:
        """The region that makes this frame an event, or None.

        Args:
            now: its time in seconds. Where times go back, waiting begins again.
        """
        result = matching_region(self._rule, item, begun=self._since is not None)
        if result is None:
            self._since, self._reported = None, False
            return None
        if self._since is None or now < self._since:
            self._since = now
        self._silent_until = min(self._silent_until, now + self._rule.cooldown_seconds)
        waited = now - self._since >= self._rule.for_seconds
        if self._reported or not waited or now < self._silent_until:
            return None
        self._reported = True
        self._silent_until = now + self._rule.cooldown_seconds
        return result


class Detector:
    """Follows every rule on every source of a run.

    Args:
        stills: per source, whether its frames are photographs. Each photograph may be an event,
            and times mean nothing.
        live: per source, whether the time of capture counts, not that of the recording.
    """

    def __init__(
        self, rules: Sequence[EventRule], stills: Sequence[bool], live: Sequence[bool]
    ) -> None:
        self._rules = tuple(rules)
        self._stills, self._live = tuple(stills), tuple(live)
        self._watches: dict[tuple[int, str], Watch] = {}
        self._counts = {rule.name: 0 for rule in rules}

    def events(self, item: FrameResults) -> list[Event]:
        """The events of one frame, in the order of the rules; frames of a source come in order."""
        found: list[Event] = []
        if item.results and not any(result.valid for result in item.results):
            # Nothing is known about it: such a frame neither begins nor ends an occurrence.
            return found
        frame = item.frame
        for rule in self._rules:
            if self._stills[frame.stream]:
                result = matching_region(rule, item, begun=False)
            else:
                watch = self._watches.setdefault((frame.stream, rule.name), Watch(rule))
                now = frame.captured if self._live[frame.stream] else frame.timestamp
                result = watch.update(item, now)
            if result is not None:
                self._counts[rule.name] += 1
                found.append(Event(rule, self._counts[rule.name], item, result))
        return found


def matching_region(rule: EventRule, item: FrameResults, begun: bool) -> Result | None:
    """The first region in which all conditions of a rule hold; None if there is none.

    Args:
        begun: whether they held on the frame before. Then a number must go back past its limit
            by the rule's hysteresis before its condition ends.
    """
    slack = rule.hysteresis if begun else 0.0
    for result in item.results:
        # A region without an answer meets no condition, not even `not_label`.
        if result.valid and _holds(rule, item, result, slack):
            return result
    return None


def heat_share(item: FrameResults, box: tuple[int, int, int, int]) -> float:
    """The share of a frame's heat, in [0, 1], that lies in a box; 0 if the frame has no heat.

    Args:
        box: `(x, y, width, height)` in pixels; outside of the frame there is no heat.
    """
    total = float(item.heat.sum(dtype="float64"))
    x, y, width, height = box
    inside = float(item.heat[y : y + height, x : x + width].sum(dtype="float64"))
    return inside / total if total > 0.0 else 0.0


def check_possible(
    rules: Sequence[EventRule], labels: Sequence[str] | None, answers_unknown: bool = False
) -> None:
    """Refuse rules that a model can never meet.

    Args:
        labels: the labels of the model's bank; None for a continuous outcome.
        answers_unknown: whether there is a rule by which an image is unknown.
    """
    for rule in rules:
        if rule.unknown is not None and not answers_unknown:
            raise FoldcamError(
                f"The event {rule.name!r} asks whether an image is unknown, and there is no rule "
                "for that: choose one with `foldcam threshold` or give --unknown-below, and leave "
                "out --no-unknown."
                if labels is not None
                else f"The event {rule.name!r} asks whether an image is unknown, and this model "
                "answers with an estimate: use estimate_above or estimate_below."
            )
        wanted = {*rule.label, *rule.not_label}
        if labels is None and wanted:
            raise FoldcamError(
                f"The event {rule.name!r} asks for a label, and this model answers with an "
                "estimate: use estimate_above or estimate_below."
            )
        if labels is not None and (unknown := sorted(wanted - set(labels))):
            raise FoldcamError(
                f"The event {rule.name!r} asks for the label {unknown[0]!r}, which this model's "
                "bank does not have (see `runtime inspect`)."
            )
        if labels is not None and (rule.estimate_above, rule.estimate_below) != (None, None):
            raise FoldcamError(
                f"The event {rule.name!r} asks for an estimate, and this model answers with "
                "labels: use label or similarity_below."
            )


def _holds(rule: EventRule, item: FrameResults, result: Result, slack: float) -> bool:
    said = result.vote or result
    label = said.answer if result.labels and not said.unknown else None
    similarity = float(result.similarities[0]) if len(result.similarities) else None
    return (
        (not rule.label or label in rule.label)
        and (not rule.not_label or (bool(result.labels) and label not in rule.not_label))
        and (rule.unknown is None or said.unknown == rule.unknown)
        and _within(similarity, rule.similarity_above, rule.similarity_below, slack)
        and _within(result.estimate, rule.estimate_above, rule.estimate_below, slack)
        and (
            rule.heat_in is None
            or _within(heat_share(item, rule.heat_in), rule.heat_above, rule.heat_below, slack)
        )
    )


def _within(value: float | None, above: float | None, below: float | None, slack: float) -> bool:
    """Whether a value lies beyond the limits that are given; a missing one or NaN does not."""
    if value is None:
        return above is None and below is None
    return (above is None or value > above - slack) and (below is None or value < below + slack)
