"""The language of rules: small, typed, nothing is evaluated.

    label is owl, "snowy owl"          the nearest label is one of these
    label is not owl                   it is none of these
    similarity below 0.4               to the nearest row: an unknown object
    heat in 0,0,320,240 above 0.3      share of the frame's heat in a box, in pixels
    estimate above 300000              of a continuous outcome

Conditions are joined by `and`. On the command line a rule has its name before a colon and its
times behind: `unknown: similarity below 0.4 for 2s cooldown 60s hysteresis 0.05`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from foldcam.runtime.events.options import EventOptions

Quantity = Literal["similarity", "estimate", "heat"]
_TOKEN = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|(,)|([^\s,"]+))')
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PREFIX = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9_.-]*)\s*:\s+(.*)", re.DOTALL)
_TAIL = re.compile(r"(.*?)\s+(for|cooldown|hysteresis)\s+([0-9.eE+-]+)\s*(s|m|h)?\s*", re.DOTALL)
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_MOST_TEXT = 4096


class RuleProblem(Exception):  # noqa: N818  (a clause for an error message of another's)
    """A rule that cannot be.

    Attributes:
        field: of `EventOptions`.
        reason: what is wrong with it, as a clause.
    """

    def __init__(self, reason: str, field: str = "when") -> None:
        super().__init__(reason)
        self.reason, self.field = reason, field


@dataclass(frozen=True)
class LabelIs:
    """The nearest label is one of these, or none of them."""

    labels: frozenset[str]
    wanted: bool


@dataclass(frozen=True)
class Threshold:
    """A number is above or below another.

    Attributes:
        quantity: which number.
        above: whether it must be above.
        value: the threshold.
        box: `(x, y, width, height)` in pixels of the frame, for heat.
    """

    quantity: Quantity
    above: bool
    value: float
    box: tuple[int, int, int, int] | None = None


Condition = LabelIs | Threshold


@dataclass(frozen=True)
class Rule:
    """A rule that was understood: all its conditions must hold, in one and the same region."""

    name: str
    conditions: tuple[Condition, ...]
    for_seconds: float
    cooldown_seconds: float
    hysteresis: float
    text: str


def parse_rule(options: EventOptions) -> Rule:
    """Understand a rule.

    Raises:
        RuleProblem: it is none; `field` says which of the options is at fault.
    """
    if not _NAME.fullmatch(options.name):
        raise RuleProblem(
            "must be of letters, digits, dots, dashes and underscores: files are named by it",
            "name",
        )
    if len(options.when) > _MOST_TEXT:
        raise RuleProblem("is too long")
    words = _Words(options.when)
    conditions = [_condition(words)]
    while not words.at_end():
        if words.take("and, or nothing more") != "and":
            raise RuleProblem(f"has {words.last!r} where only `and` can follow")
        conditions.append(_condition(words))
    return Rule(
        options.name, tuple(conditions), options.for_seconds, options.cooldown_seconds,
        options.hysteresis, options.when,
    )  # fmt: skip


def event_from_text(text: str, name: str) -> EventOptions:
    """A rule in one line, `[NAME: ]WHEN [for S] [cooldown S] [hysteresis X]`.

    Args:
        text: the line; seconds may have a unit: `90`, `90s`, `1.5m`, `1h`.
        name: if the line has none.

    Raises:
        RuleProblem: it is no rule.
    """
    if len(text) > _MOST_TEXT:
        raise RuleProblem("is too long")
    prefix = _PREFIX.fullmatch(text)
    if prefix:
        name, text = prefix[1], prefix[2]
    values: dict[str, float] = {}
    # From the end, one clause at a time; a quoted label never ends in a number.
    while tail := _TAIL.fullmatch(text):
        clause, number, unit = tail[2], tail[3], tail[4] or ""
        if clause in values:
            raise RuleProblem(f"says {clause} twice")
        if unit and clause == "hysteresis":
            raise RuleProblem("gives hysteresis a unit, and it has none")
        values[clause] = _number(number, clause) * _UNITS[unit]
        text = tail[1]
    if any(value < 0 for value in values.values()):
        raise RuleProblem("has a negative time or hysteresis")
    given = EventOptions(
        name=name,
        when=text.strip(),
        for_seconds=values.get("for", EventOptions.for_seconds),
        cooldown_seconds=values.get("cooldown", EventOptions.cooldown_seconds),
        hysteresis=values.get("hysteresis", EventOptions.hysteresis),
    )
    parse_rule(given)
    return given


class _Words:
    """The words of a condition, one after the other."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text.rstrip(), 0
        self.last = ""
        self.quoted = False

    def at_end(self) -> bool:
        return self._at >= len(self._text)

    def take(self, wanted: str) -> str:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            if self.at_end():
                raise RuleProblem(f"ends where {wanted} is needed")
            raise RuleProblem("has a quote that is not closed")
        self._at = found.end()
        self.quoted = found[1] is not None
        if self.quoted:
            self.last = re.sub(r"\\(.)", r"\1", found[1])
        else:
            self.last = found[2] or found[3]
        return self.last

    def peek(self) -> str:
        at, last, quoted = self._at, self.last, self.quoted
        word = "" if self.at_end() else self.take("something")
        quoted_word = self.quoted
        self._at, self.last, self.quoted = at, last, quoted
        return "" if quoted_word and word else word


def _condition(words: _Words) -> Condition:
    subject = words.take("a condition")
    if subject == "label":
        return _label(words)
    box = None
    if subject == "heat":
        _expect(words, "in")
        box = _box(words)
    elif subject not in ("similarity", "estimate"):
        raise RuleProblem(
            f"has {subject[:40]!r} where label, similarity, heat or estimate is needed"
        )
    direction = words.take("above or below")
    if direction not in ("above", "below"):
        raise RuleProblem(f"has {direction[:40]!r} where above or below is needed")
    value = _number(words.take("a number"), subject)
    if subject == "similarity" and not -1 <= value <= 1:
        raise RuleProblem(f"compares the similarity with {value:g}, and it lies from -1 to 1")
    if subject == "heat" and not 0 <= value <= 1:
        raise RuleProblem(f"compares a share of the heat with {value:g}, and it lies from 0 to 1")
    quantity: Quantity = "heat" if subject == "heat" else _quantity(subject)
    return Threshold(quantity, direction == "above", value, box)


def _quantity(subject: str) -> Quantity:
    return "similarity" if subject == "similarity" else "estimate"


def _label(words: _Words) -> LabelIs:
    _expect(words, "is")
    wanted = words.peek() != "not"
    if not wanted:
        words.take("not")
    labels = [_one_label(words)]
    while words.peek() == ",":
        words.take(",")
        labels.append(_one_label(words))
    return LabelIs(frozenset(labels), wanted)


def _one_label(words: _Words) -> str:
    label = words.take("a label")
    if not words.quoted and label in (",", "and"):
        raise RuleProblem(f"has {label!r} where a label is needed (quote one of that name)")
    return label


def _box(words: _Words) -> tuple[int, int, int, int]:
    numbers = []
    for position in range(4):
        if position:
            _expect(words, ",")
        word = words.take("a box x,y,width,height")
        if not re.fullmatch(r"\d{1,9}", word):
            raise RuleProblem(f"has {word[:40]!r} where a box x,y,width,height is needed")
        numbers.append(int(word))
    x, y, width, height = numbers
    if not width or not height:
        raise RuleProblem("has a box without area")
    return x, y, width, height


def _expect(words: _Words, wanted: str) -> None:
    if words.take(repr(wanted)) != wanted:
        raise RuleProblem(f"has {words.last[:40]!r} where {wanted!r} is needed")


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        _no_number(text, what)
    return value


def _no_number(text: str, what: str) -> NoReturn:
    raise RuleProblem(f"has {text[:40]!r} where a number for {what} is needed")
