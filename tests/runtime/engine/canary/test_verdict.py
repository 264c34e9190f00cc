"""What a right library may differ by, and what is found in a wrong one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foldcam.runtime.contract.canary import Canary, packed, unpacked
from foldcam.runtime.engine.canary.verdict import agreement, answer_of, coarse, judge, sketch

RANDOM = np.random.default_rng(5)
EMBEDDINGS = RANDOM.normal(size=(3, 64)).astype(np.float32)
MAPS = RANDOM.random((3, 1, 1, 7, 7)).astype(np.float32)


def outputs(number: int) -> dict[str, np.ndarray]:
    """What the model answers to a picture."""
    return {
        "embedding": EMBEDDINGS[number][None].copy(),
        "heatmap": MAPS[number].copy(),
        "contribution": MAPS[number] - 0.4,
        "neighbor": np.array([[number, 9]], np.int32),
        "similarity": np.array([[0.5, 0.1]], np.float32),
    }


RIGHT = [outputs(number) for number in range(3)]
CANARY = Canary("fp32", tuple(answer_of(seed, found) for seed, found in enumerate(RIGHT)))


def verdict(change, precision="fp32", canary=CANARY):
    """The verdict on answers that `change` changed: it gets outputs and their number."""
    found = [outputs(number) for number in range(3)]
    for number, each in enumerate(found):
        change(each, number)
    return judge(replace(canary, precision=precision), found, scores=False)


def turned(embedding, cosine, number=0):
    """The embedding turned until it has that cosine to what it was."""
    other = np.random.default_rng(number).normal(size=embedding.shape)
    unit = embedding / np.linalg.norm(embedding)
    other -= (other * unit).sum() * unit
    other /= np.linalg.norm(other)
    length = np.linalg.norm(embedding)
    return (length * (cosine * unit + np.sqrt(1 - cosine**2) * other)).astype(np.float32)


def set_to(name, make):
    def change(each, number):
        each[name] = make(each[name], number)

    return change


def test_the_same_answers_are_right_whatever_their_cells():
    found = verdict(lambda each, number: None)
    assert found.right
    assert found.cosine == pytest.approx(1, abs=1e-6)
    assert found.map_agreement == 1


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 0.99), ("fp16", 0.98), ("int8", 0.9)])
def test_the_limit_of_the_cosine_is_that_of_the_precision(precision, limit):
    for cosine, right in ((limit + 0.003, True), (limit - 0.003, False)):
        one = set_to("embedding", lambda e, n, c=cosine: turned(e, c, n))
        found = verdict(one, precision)
        assert found.right == right
        assert found.cosine == pytest.approx(cosine, abs=1e-4)
    assert f"{limit - 0.003:.4f}, below {limit:g}" in found.failures[0]


@pytest.mark.parametrize("name", ["embedding", "heatmap", "contribution", "similarity"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(name, value):
    def change(each, number):
        if number == 1:
            each[name].flat[0] = value

    assert "not finite" in verdict(change).failures[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_to("embedding", lambda e, n: np.zeros_like(e)), "cosine of its embeddings"),
        (set_to("embedding", lambda e, n: 2 * e), "length"),
        (set_to("similarity", lambda s, n: s + 0.02), "similarity is 0.52 where"),
        (set_to("neighbor", lambda r, n: r + 1), "other bank rows than the float model"),
        (set_to("heatmap", lambda m, n: m[..., ::-1]), "map heatmap agrees"),
        (set_to("heatmap", lambda m, n: np.zeros_like(m)), "map heatmap agrees"),
        (set_to("contribution", lambda m, n: -m), "map contribution agrees"),
        (set_to("contribution", lambda m, n: 2 * m), "map contribution agrees"),
    ],
)
def test_each_kind_of_fault_is_named(change, words):
    found = verdict(change)
    assert not found.right
    assert words in "; ".join(found.failures)


def test_an_embedding_that_is_always_the_same_is_found_where_all_are_alike():
    """As of a network whose embeddings have a large common part."""
    common = 20 * np.ones(64, np.float32)
    alike = [{**outputs(n), "embedding": outputs(n)["embedding"] + common} for n in range(3)]
    canary = Canary("fp32", tuple(answer_of(seed, found) for seed, found in enumerate(alike)))
    assert judge(canary, alike, scores=False).right
    middle = np.mean([each["embedding"] for each in alike], axis=0)
    found = judge(canary, [{**each, "embedding": middle} for each in alike], scores=False)
    assert found.cosine > 0.99
    assert "too alike" in found.failures[0]


def test_rows_as_near_as_one_another_may_change_places_in_one_picture():
    def change(each, number):
        if number == 0:
            each["neighbor"][0, 0] = 7
            each["heatmap"] = each["heatmap"][..., ::-1]

    assert verdict(change).right


def test_a_heatmap_without_evidence_is_not_compared():
    def without(each):
        each["contribution"] = -np.abs(each["contribution"])
        return each

    found = [without(outputs(number)) for number in range(3)]
    canary = Canary("fp32", tuple(answer_of(seed, each) for seed, each in enumerate(found)))
    for each in found:
        each["heatmap"] = each["heatmap"][..., ::-1]
    assert judge(canary, found, scores=False).right


def test_agreement_is_one_of_equals_and_falls_with_scale_and_offset():
    map_ = np.array([0.0, 1.0, 2.0, 5.0])
    assert agreement(map_, map_ + 0.01) == 1.0
    assert agreement(map_, -map_) < 0
    assert agreement(map_, 2 * map_) < 0.8
    assert agreement(map_, map_ + 3) < 0.8
    assert agreement(map_, np.full(4, 2.0)) == 0.0


def test_a_map_is_averaged_over_cells_of_every_size():
    map_ = np.arange(10 * 19, dtype=np.float32).reshape(1, 1, 10, 19)
    cells = coarse(map_).reshape(8, 8)
    assert cells[0, 0] == map_[0, 0, :1, :2].mean()
    assert cells[-1, -1] == map_[0, 0, 8:, 16:].mean()
    small = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    assert coarse(small).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_sketch_keeps_the_cosine_of_long_embeddings():
    random = np.random.default_rng(0)
    for cosine in (1.0, 0.99, 0.95, 0.5):
        one = random.normal(size=2048)
        other = turned(one, cosine, 3).astype(np.float64)
        a, b = sketch(one), sketch(other)
        assert len(a) == 512
        found = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert 1 - found == pytest.approx(1 - cosine, rel=0.25, abs=1e-6)


def test_packed_numbers_come_back():
    for values in (RANDOM.normal(size=100), np.zeros(3), 1e-7 * RANDOM.normal(size=5), 1e5 * MAPS):
        found = unpacked(packed(values))
        scale = np.abs(values).max()
        np.testing.assert_allclose(found, values.ravel(), atol=1e-3 * scale)
    for text in ("", "AAAA", "!!!!", "AACAfwAAAAA=", packed(np.ones(2))[:-2]):
        with pytest.raises(ValueError, match=r"bytes|base64|padding|finite"):
            unpacked(text)
