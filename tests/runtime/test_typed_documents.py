"""Typed reading of what others wrote: the key in full, the value, and what is needed there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from msgspec import Meta

from foldcam.runtime.system.documents import (
    Finite,
    KeyProblem,
    Natural,
    Versioned,
    read_document,
    typed,
)
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True)
class Part:
    count: Natural
    kind: Literal["contour", "box"] = "box"
    angle: Literal[0, 90] = 0
    size: Annotated[tuple[Natural | str, ...], Meta(min_length=1, max_length=2)] | None = None

    def __post_init__(self) -> None:
        if self.count == 7:
            raise KeyProblem("count", "is 7, which is taken")


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    weight: Finite = 1.0
    pair: tuple[float, bool] | None = None
    figures: dict[str, list[Finite]] | None = None
    names: Annotated[dict[str, str], Meta(max_length=2)] | None = None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "is a list where an object is needed."),
        ({}, ": parts is missing."),
        ({"parts": None}, ": parts is null where a list is needed."),
        ({"parts": [{"count": 1}, {}]}, ": parts[1].count is missing."),
        ({"parts": [{"count": -1}]}, ": parts[0].count is -1 where at least 0 is needed."),
        ({"parts": [{"count": 10**400}]},
         ": parts[0].count is a huge integer where at most 9007199254740991 is allowed."),
        ({"parts": [{"count": True}]}, "count is true or false where an integer is needed."),
        ({"parts": [{"count": 7}]}, ": parts[0].count is 7, which is taken."),
        ({"parts": [{"count": 1, "kind": "contuor"}]},
         "kind is 'contuor' where one of contour, box is needed (did you mean contour?)."),
        ({"parts": [{"count": 1, "angle": 45}]}, "angle is 45 where one of 0, 90 is needed."),
        ({"parts": [{"count": 1, "angle": 10**400}]}, "angle is a huge integer where one of 0, 90"),
        ({"parts": [{"count": 1, "size": []}]}, "size has 0 values where at least 1 is needed."),
        ({"parts": [{"count": 1, "size": [2.5]}]},
         "size[0] is a number where an integer or a string is needed."),
        ({"parts": [], "weight": math.nan}, ": weight is not finite."),
        ({"parts": [], "weight": -math.inf}, ": weight is not finite."),
        ({"parts": [], "weight": 10**400}, ": weight is too large."),
        ({"parts": [], "weight": "1"}, ": weight is a string where a number is needed."),
        ({"parts": [], "pair": [1]}, ": pair has 1 values where 2 are needed."),
        ({"parts": [], "pair": [1, 2]}, ": pair[1] is an integer where true or false is needed."),
        ({"parts": [], "names": {"b": "", "a": 3}}, ": names.a is an integer where a string is"),
        ({"parts": [], "figures": {"a": [], "b": [1, math.inf]}}, ": figures.b[1] is not finite."),
        ({"parts": [], "names": dict.fromkeys("abc", "")}, "names has 3 entries where at most 2"),
        ({"parts": [{"count": 1, "kind": "\udcff"}]}, "kind is '\\\\udcff' where one of contour"),
        ({"parts": [{"count": 1, "\udcff": 1}]}, " has a key with half a surrogate pair."),
        ({"parts": [{"count": 1, "angle": 10**5000}]}, "parts[0].angle is a huge integer where"),
        ({"parts": [{"count": 1, "kind": "rtsp://me:secret@cam"}]}, "'rtsp://***@cam'"),
        ({"parts": [{"count": 1, "kind": "\x1b[2J" + "x" * 9000}]}, "kind is '\\x1b[2Jxxx"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_with_the_key_in_full(document, message):
    with pytest.raises(FoldcamError) as caught:
        read_document(Whole, document, "a.json")
    said = str(caught.value)
    assert message in said
    assert said.startswith("a.json")
    assert len(said) < 300
    assert said.isprintable()


def test_what_is_right_is_read_and_other_keys_are_ignored():
    document = {"parts": [{"count": 0, "size": ["N", 3], "new": []}], "weight": 2, "more": 1}
    assert read_document(Whole, document, "x") == Whole((Part(0, size=("N", 3)),), 2.0)
    assert read_document(Versioned, {"schema_version": 4}, "x").schema_version == 4


def test_a_section_that_must_be_whole_has_every_key():
    document = {"parts": [], "part": {"count": 1}}

    @dataclass(frozen=True)
    class Outer:
        part: Part

    with pytest.raises(FoldcamError, match=r"x: part\.kind is missing"):
        read_document(Outer, document, "x", whole=("part",))


def test_a_problem_names_its_key_and_where_it_is_read():
    with pytest.raises(KeyProblem) as caught:
        typed(Whole, {"parts": [{"count": -1}]}, "top")
    assert (caught.value.key, caught.value.reason[:5]) == ("top.parts[0].count", "is -1")
    with pytest.raises(KeyProblem, match="count is 7, which is taken"):
        Part(7)
