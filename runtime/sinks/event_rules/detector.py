"""Finds events in frames: one per occurrence, however much a value flickers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.result import Result
from foldcam.runtime.sinks.event_rules.rule import EventRule
from foldcam.runtime.system.errors import FoldcamError


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
