"""Events out of frames: once per occurrence, however much a value flickers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foldcam.runtime.drawing.frame_results import FrameResults
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.events.conditions import holds
from foldcam.runtime.events.language import LabelIs, Rule, RuleProblem, Threshold, parse_rule
from foldcam.runtime.events.options import EventOptions
from foldcam.runtime.model import Result


@dataclass(frozen=True, eq=False)
class Event:
    """A rule that was met.

    Attributes:
        rule: which.
        number: of the event among those of its rule in this run, from 1.
        item: the frame.
        result: the region.
    """

    rule: Rule
    number: int
    item: FrameResults
    result: Result


class Watch:
    """One rule on one source, by that source's own seconds.

    Args:
        rule: what is waited for.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._since: float | None = None
        self._told = False
        self._silent_until = -float("inf")

    def update(self, item: FrameResults, now: float) -> Result | None:
        """The region that makes this frame an event; None if it is none.

        Args:
            item: the next frame.
            now: its time in seconds. Where it goes back, waiting begins anew.
        """
        result = holds(self._rule, item, begun=self._since is not None)
        if result is None:
            self._since, self._told = None, False
            return None
        if self._since is None or now < self._since:
            self._since = now
        self._silent_until = min(self._silent_until, now + self._rule.cooldown_seconds)
        waited = now - self._since >= self._rule.for_seconds
        if self._told or not waited or now < self._silent_until:
            return None
        self._told = True
        self._silent_until = now + self._rule.cooldown_seconds
        return result


class Detector:
    """Every rule on every source of a run.

    Args:
        rules: understood.
        stills: per source, whether its frames are photographs: each may be an event, and times
            mean nothing.
        live: per source, whether time is that of capture, not the recording's.
    """

    def __init__(self, rules: Sequence[Rule], stills: Sequence[bool], live: Sequence[bool]) -> None:
        self._rules = tuple(rules)
        self._stills, self._live = tuple(stills), tuple(live)
        self._watches: dict[tuple[int, str], Watch] = {}
        self._counts = {rule.name: 0 for rule in rules}

    def events(self, item: FrameResults) -> list[Event]:
        """The events of one frame, in the order of the rules; frames of a source in order."""
        found: list[Event] = []
        if item.results and not any(result.valid for result in item.results):
            # Nothing is known of it: what has begun neither goes on nor ends by such a frame.
            return found
        stream = item.frame.stream
        for rule in self._rules:
            if self._stills[stream]:
                result = holds(rule, item, begun=False)
            else:
                watch = self._watches.setdefault((stream, rule.name), Watch(rule))
                frame = item.frame
                now = frame.captured if self._live[stream] else frame.timestamp
                result = watch.update(item, now)
            if result is not None:
                self._counts[rule.name] += 1
                found.append(Event(rule, self._counts[rule.name], item, result))
        return found


def understood(events: Sequence[EventOptions], labels: Sequence[str] | None) -> list[Rule]:
    """The rules of a run, held against what the model can answer.

    Args:
        events: as the user wrote them.
        labels: of the model's bank; None for a continuous outcome.

    Raises:
        FoldcamError: a rule is none, or can never be met by this model.
    """
    rules: list[Rule] = []
    for options in events:
        try:
            rule = parse_rule(options)
        except RuleProblem as problem:
            raise FoldcamError(
                f"The event {options.name!r}: its {problem.field} {problem.reason}."
            ) from None
        for condition in rule.conditions:
            _check_possible(rule, condition, labels)
        rules.append(rule)
    return rules


def _check_possible(
    rule: Rule, condition: LabelIs | Threshold, labels: Sequence[str] | None
) -> None:
    about_labels = isinstance(condition, LabelIs)
    if about_labels and labels is None:
        raise FoldcamError(
            f"The event {rule.name!r} asks for a label, and this model answers with an estimate: "
            "use `estimate above NUMBER`."
        )
    if isinstance(condition, LabelIs) and labels is not None:
        unknown = sorted(condition.labels - set(labels))
        if unknown:
            raise FoldcamError(
                f"The event {rule.name!r} asks for the label {unknown[0]!r}, which this model's "
                "bank does not have (see `runtime inspect`)."
            )
    if isinstance(condition, Threshold) and condition.quantity == "estimate" and labels is not None:
        raise FoldcamError(
            f"The event {rule.name!r} asks for an estimate, and this model answers with labels: "
            "use `label is NAME` or `similarity below NUMBER`."
        )
