"""The conditions of an event, as typed keys that a TOML table, a flag and Python share."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, cast

from msgspec import Meta

from foldcam.runtime.sources.options import Box
from foldcam.runtime.system.documents import KeyProblem, Share
from foldcam.runtime.system.key import key

CONDITIONS = (
    "label", "not_label", "unknown", "similarity_below", "similarity_above", "estimate_below",
    "estimate_above", "heat_in", "heat_below", "heat_above",
)  # fmt: skip
_Cosine = Annotated[float, Meta(ge=-1, le=1)]
_Estimate = Annotated[float, Meta(ge=-1e30, le=1e30)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class EventRule:
    """A rule for events. All conditions that are given must hold in one region of a frame.

    In a run with votes, `label` and `not_label` ask the voted label in place of the nearest
    row's; a vote for unknown meets no `label`, and every `not_label`. A value that equals a limit
    does not meet it.

    Raises:
        KeyProblem: the name cannot name a file, no condition is given, the box has no area, or
            no value can meet the limits.
    """

    name: str = key(
        cast(Any, MISSING),
        "The rule's name: letters, digits, dots, dashes and underscores. Files are named by it.",
        example='"unknown"',
    )
    label: tuple[str, ...] = key(
        (), "The nearest label must be this one, or one of these.", example='["owl", "snowy owl"]'
    )
    not_label: tuple[str, ...] = key(
        (),
        "The nearest label must be none of these; an unknown image is none of them.",
        example='"owl"',
    )
    unknown: bool | None = key(
        None,
        "The image must be unknown (or with false, known) by the model's rule, which `foldcam "
        "threshold` chooses.",
        example="true",
    )
    similarity_below: _Cosine | None = key(
        None,
        "The similarity to the nearest row, a cosine from -1 to 1, must be below this.",
        example="0.4",
    )
    similarity_above: _Cosine | None = key(
        None,
        "The similarity to the nearest row, a cosine from -1 to 1, must be above this.",
        example="0.8",
    )
    estimate_below: _Estimate | None = key(
        None, "The estimate of a continuous outcome must be below this.", example="100000.0"
    )
    estimate_above: _Estimate | None = key(
        None, "The estimate of a continuous outcome must be above this.", example="300000.0"
    )
    heat_in: Box | None = key(
        None,
        "A box of the frame, x, y, width and height in pixels, for heat_above or heat_below.",
        example="[0, 0, 320, 240]",
    )
    heat_below: Share | None = key(
        None,
        "The share of the frame's heat in the box heat_in, 0 to 1, must be below this.",
        example="0.1",
    )
    heat_above: Share | None = key(
        None,
        "The share of the frame's heat in the box heat_in, 0 to 1, must be above this.",
        example="0.3",
    )
    for_seconds: Annotated[float, Meta(ge=0, le=10**6)] = key(
        0.0, "All conditions must hold for so many seconds without a break."
    )
    cooldown_seconds: Annotated[float, Meta(ge=0, le=1e7)] = key(
        10.0, "For so many seconds after an event the rule gives no other."
    )
    hysteresis: Annotated[float, Meta(ge=0, le=1e12)] = key(
        0.0, "A number must go back past its limit by so much before its condition ends."
    )

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
        message = f"The event {self.name[:64]!r} cannot be used: {key} {reason}."
        raise KeyProblem(key, reason, message)
