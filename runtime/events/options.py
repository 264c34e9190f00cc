"""One rule, as a user writes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EventOptions:
    """What an event is, and when it is one.

    Attributes:
        name: in outputs.
        when: the condition, in the language of `runtime.events.language`.
        for_seconds: how long the condition must hold without a break.
        cooldown_seconds: after an event, how long the rule stays silent.
        hysteresis: how far a number must go back past its threshold before the condition
            counts as over.
    """

    name: str
    when: str
    for_seconds: float = 0.0
    cooldown_seconds: float = 10.0
    hysteresis: float = 0.0
