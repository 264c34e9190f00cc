"""The language of rules."""

from __future__ import annotations

import pytest

from foldcam.runtime.events.language import (
    LabelIs,
    RuleProblem,
    Threshold,
    event_from_text,
    parse_rule,
)
from foldcam.runtime.events.options import EventOptions


def conditions(when: str):
    return parse_rule(EventOptions("a", when)).conditions


def test_every_condition():
    assert conditions('label is owl, "snowy owl", "a \\"b\\""') == (
        LabelIs(frozenset({"owl", "snowy owl", 'a "b"'}), True),
    )
    assert conditions("label is not owl") == (LabelIs(frozenset({"owl"}), False),)
    assert conditions('label is "not"') == (LabelIs(frozenset({"not"}), True),)
    assert conditions("similarity below -0.4") == (Threshold("similarity", False, -0.4),)
    assert conditions("heat in 0, 10,320,240 above 0.3") == (
        Threshold("heat", True, 0.3, (0, 10, 320, 240)),
    )
    assert conditions('label is "a and b" and  similarity above .5 and estimate above 1e5') == (
        LabelIs(frozenset({"a and b"}), True),
        Threshold("similarity", True, 0.5),
        Threshold("estimate", True, 1e5),
    )


def test_a_rule_in_one_line():
    assert event_from_text(
        "odd: similarity below 0.4 for 2s cooldown 1.5m hysteresis 0.05", "x"
    ) == (EventOptions("odd", "similarity below 0.4", 2.0, 90.0, 0.05))
    assert event_from_text("label is owl", "event-1") == EventOptions("event-1", "label is owl")
    assert event_from_text('label is "owl for 2s"', "e").when == 'label is "owl for 2s"'
    assert event_from_text("a: label is owl cooldown 1h for 3", "e").for_seconds == 3.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ends where a condition"),
        ("label", "ends where 'is'"),
        ("label is", "ends where a label"),
        ("label is owl,", "ends where a label"),
        ("label is owl cat", "has 'cat' where only `and`"),
        ("label is owl and", "ends where a condition"),
        ("label are owl", "has 'are' where 'is'"),
        ('label is "owl', "quote that is not closed"),
        ("weather above 3", "has 'weather' where label"),
        ("similarity over 3", "has 'over' where above or below"),
        ("similarity above much", "has 'much' where a number"),
        ("similarity above nan", "has 'nan' where a number"),
        ("similarity above 1.5", "lies from -1 to 1"),
        ("heat above 0.3", "has 'above' where 'in'"),
        ("heat in 1,2,3 above 0.3", "has 'above' where ','"),
        ("heat in 1,2,3,x above 0.3", "has 'x' where a box"),
        ("heat in 1,2,0,4 above 0.3", "without area"),
        ("heat in 1,2,3,4 above 3", "lies from 0 to 1"),
        ("label is owl for 2s for 3s", "says for twice"),
        ("label is owl hysteresis 2s", "gives hysteresis a unit"),
        ("label is owl for -2", "negative"),
        ("label is owl for x", "has 'for' where only `and`"),
        ("x" * 5000, "too long"),
        ("__import__('os').system('true')", "where label"),
    ],
)
def test_what_is_no_rule(text, reason):
    with pytest.raises(RuleProblem) as caught:
        event_from_text(text, "event-1")
    assert reason in caught.value.reason


def test_a_name_that_could_leave_its_folder():
    for name in ("../x", "a/b", "", ".hidden", "x" * 65, "a b"):
        with pytest.raises(RuleProblem) as caught:
            parse_rule(EventOptions(name, "label is owl"))
        assert caught.value.field == "name"
