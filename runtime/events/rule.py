"""The conditions of an event, as typed keys that a TOML table, a flag and Python share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from foldcam.runtime.errors import FoldcamError

CONDITIONS = (
    "label", "not_label", "unknown", "similarity_below", "similarity_above", "estimate_below",
    "estimate_above", "heat_in", "heat_below", "heat_above",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class RuleProblem(FoldcamError):  # noqa: N818  (its key and reason go into others' messages)
    """An `EventRule` whose values do not go together.

    Attributes:
        key: the attribute of the rule that is wrong.
        reason: what is wrong with it, as a clause.
    """

    def __init__(self, name: str, key: str, reason: str) -> None:
        super().__init__(f"The event {name[:64]!r} cannot be used: {key} {reason}.")
        self.key, self.reason = key, reason


@dataclass(frozen=True)
class EventRule:
    """A rule for events. All conditions that are given must hold in one region of a frame.

    In a run with votes, `label` and `not_label` ask the voted label in place of the nearest
    row's; a vote for unknown meets no `label`, and every `not_label`.

    Attributes:
        name: the rule's name in outputs; snapshot files are named by it.
        label: the label of the nearest row is one of these, and the image is not unknown.
        not_label: the label of the nearest row is none of these, or the image is unknown.
        unknown: whether the model's rule says that the image is unknown.
        similarity_below, similarity_above: the limits of the similarity to the nearest row, a
            cosine from -1 to 1. A value that equals a limit does not meet it.
        estimate_below, estimate_above: the limits of the estimate of a continuous outcome, in
            the outcome's unit.
        heat_in: a box `(x, y, width, height)` in pixels of the frame. It needs one of the next.
        heat_below, heat_above: the limits of the share of the frame's heat in that box, 0 to 1.
        for_seconds: how long the conditions must hold without a break.
        cooldown_seconds: for how long after an event the rule gives no other.
        hysteresis: how far a number must go back past its limit before the condition ends.

    Raises:
        RuleProblem: the name cannot name a file, no condition is given, the box has no area, or
            no value can meet the limits.
    """

    name: str
    label: tuple[str, ...] = ()
    not_label: tuple[str, ...] = ()
    unknown: bool | None = None
    similarity_below: float | None = None
    similarity_above: float | None = None
    estimate_below: float | None = None
    estimate_above: float | None = None
    heat_in: tuple[int, int, int, int] | None = None
    heat_below: float | None = None
    heat_above: float | None = None
    for_seconds: float = 0.0
    cooldown_seconds: float = 10.0
    hysteresis: float = 0.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            self._refuse(
                "name",
                "must be of letters, digits, dots, dashes and underscores: files are named by it",
            )
        if not self.conditions:
            others = ", ".join(CONDITIONS[1:8])
            self._refuse("label", f"is missing, and so is every other condition ({others})")
        if (self.heat_in is None) != (self.heat_below is None and self.heat_above is None):
            self._refuse("heat_in", "and heat_above (or heat_below) are needed together")
        if self.heat_in is not None and 0 in self.heat_in[2:]:
            self._refuse("heat_in", "has no area")
        for quantity in ("similarity", "estimate", "heat"):
            low, high = (getattr(self, f"{quantity}_{side}") for side in ("above", "below"))
            if low is not None and high is not None and low >= high:
                self._refuse(
                    f"{quantity}_above",
                    f"is {low:g} and {quantity}_below is {high:g}: no value meets both",
                )

    @property
    def conditions(self) -> dict[str, Any]:
        """The conditions that are given, by key."""
        given = {key: getattr(self, key) for key in CONDITIONS}
        return {key: value for key, value in given.items() if value not in (None, ())}

    def _refuse(self, key: str, reason: str) -> None:
        raise RuleProblem(self.name, key, reason)
