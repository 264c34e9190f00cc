"""A rule's keys: what they refuse, and that a file, a flag and Python make the same rule."""

from __future__ import annotations

import pytest
import typer

from foldcam.runtime.pipeline.config import config_from
from foldcam.runtime.pipeline.config.flags import event_table
from foldcam.runtime.pipeline.config.loading import parse_toml
from foldcam.runtime.sinks.event_rules import CONDITIONS, EventRule
from foldcam.runtime.system.documents import KeyProblem
from foldcam.runtime.system.errors import FoldcamError


def rule_of(table: dict) -> EventRule:
    return config_from({"event": [table], "output": {"events": "e"}}).events[0]


@pytest.mark.parametrize(
    ("flag", "toml", "rule"),
    [
        (
            "name=odd,similarity_below=-0.4,for_seconds=2,cooldown_seconds=90,hysteresis=0.05",
            'name="odd"\nsimilarity_below=-0.4\nfor_seconds=2\ncooldown_seconds=90\nhysteresis=0.05',
            EventRule("odd", similarity_below=-0.4, for_seconds=2, cooldown_seconds=90,
                      hysteresis=0.05),
        ),
        (
            "name=a,label=owl,snowy owl,for_seconds=1",
            'name="a"\nlabel=["owl", "snowy owl"]\nfor_seconds=1.0',
            EventRule("a", label=("owl", "snowy owl"), for_seconds=1),
        ),
        (
            " name = a , not_label = owl ",
            'name="a"\nnot_label="owl"',
            EventRule("a", not_label=("owl",)),
        ),
        (
            'name=a,label="gull, herring",cat,label=a=b,7,"a \\"b\\""',
            '''name="a"\nlabel=["gull, herring", "cat", "a=b", "7", 'a "b"']''',
            EventRule("a", label=("gull, herring", "cat", "a=b", "7", 'a "b"')),
        ),
        (
            "name=door,heat_in=0, 10,320,240,heat_above=0.3,estimate_below=-1e3",
            'name="door"\nheat_in=[0, 10, 320, 240]\nheat_above=0.3\nestimate_below=-1e3',
            EventRule("door", heat_in=(0, 10, 320, 240), heat_above=0.3, estimate_below=-1000),
        ),
        (
            "name=a,heat_in=0,0,9,9,heat_below=1,estimate_above=1e5,similarity_above=.5",
            'name="a"\nheat_in=[0, 0, 9, 9]\nheat_below=1\nestimate_above=1e5\n'
            "similarity_above=0.5",
            EventRule("a", heat_in=(0, 0, 9, 9), heat_below=1, estimate_above=1e5,
                      similarity_above=0.5),
        ),
    ],
)  # fmt: skip
def test_a_flag_a_table_and_python_make_the_same_rule(flag, toml, rule):
    assert rule_of(event_table(flag, "event-1")) == rule
    assert rule_of(parse_toml(toml, "x")) == rule


def test_a_flag_without_a_name_is_named_by_its_place():
    assert event_table("label=owl", "event-3") == {"name": "event-3", "label": "owl"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "label is missing, and so is every other condition (not_label, "),
        ("unknown: similarity below 0.4 for 2s", "needs the form KEY=VALUE, such as name=unknown"),
        ("label is owl", "needs the form KEY=VALUE"),
        ("__import__('os').system('true')", "needs the form KEY=VALUE"),
        ('label="owl', "ends within a quote"),
        ("name=a", "label is missing, and so is every other condition (not_label, "),
        ("similarity_belo=0.4", "similarity_belo is unknown (did you mean similarity_below?)."),
        ("when=label is owl", "when is unknown (conditions are keys of their own, such as "),
        ("weather=3", "weather is unknown (known here: name, label, not_label"),
        ("similarity_above=much", "similarity_above is a string where a number is needed."),
        ("similarity_above=", "similarity_above is a string where a number is needed."),
        ("similarity_above=0.1,0.2", "similarity_above is an array where a number is needed."),
        ("similarity_above=nan", "similarity_above is not finite."),
        ("similarity_above=1.5", "similarity_above is 1.5 where at most 1 is allowed."),
        ("similarity_below=-2", "similarity_below is -2 where at least -1 is needed."),
        ("similarity_below=0.2,similarity_above=0.2",
         "similarity_above is 0.2 and similarity_below is 0.2: no value meets both."),
        ("heat_above=0.3", "heat_in and heat_above (or heat_below) are needed together."),
        ("heat_in=1,2,3,4", "heat_in and heat_above (or heat_below) are needed together."),
        ("heat_in=1,2,3,heat_above=0.3", "heat_in has 3 values where 4 are needed."),
        ("heat_in=1,2,3,x,heat_above=0.3", "heat_in[3] is a string where an integer is needed."),
        ("heat_in=1,2,-3,4,heat_above=0.3", "heat_in[2] is -3 where at least 0 is needed."),
        ("heat_in=1,2,0,4,heat_above=0.3", "heat_in has no area."),
        ("heat_in=1,2,3,4,heat_above=3", "heat_above is 3 where at most 1 is allowed."),
        ("label=owl,for_seconds=-2", "for_seconds is -2 where at least 0 is needed."),
        ("label=owl,cooldown_seconds=2s", "cooldown_seconds is a string where a number"),
        ("name=a b,label=owl", "name must be of letters, digits"),
        ("label=" + "x" * 20_000, ": label is too long."),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused_in_one_sentence_with_its_key(text, message):
    with pytest.raises(typer.BadParameter) as caught:
        event_table(text, "event-1")
    assert message in caught.value.message
    assert caught.value.message.startswith("--event ")
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 65, "a b"])
def test_a_name_that_could_leave_its_folder_is_refused(name):
    with pytest.raises(FoldcamError, match="name must be of letters") as caught:
        EventRule(name, label=("owl",))
    assert isinstance(caught.value, KeyProblem)
    assert caught.value.key == "name"


def test_conditions_are_what_is_given():
    assert EventRule("a", heat_in=(0, 0, 9, 9), heat_above=0.0).conditions == {
        "heat_in": (0, 0, 9, 9), "heat_above": 0.0,
    }  # fmt: skip
    assert set(CONDITIONS) == set(vars(EventRule("a", label=("x",)))) - {
        "name", "for_seconds", "cooldown_seconds", "hysteresis",
    }  # fmt: skip
