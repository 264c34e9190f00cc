"""Numbers that are no answer: no label, no similarity, no heat; and other rows are not touched."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foldcam.runtime.backends import open_backend
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.unanswered import INFINITY, NAN, SIMILARITY, TOO_LARGE, ZERO, reasons

BLACK = np.zeros((16, 16, 3), np.uint8)
RED = np.full((16, 16, 3), (200, 0, 0), np.uint8)
WRONG = [float("nan"), float("inf"), float("-inf")]


def test_every_kind_has_a_reason_and_a_right_row_has_none():
    good, heat = np.eye(6, 4, dtype=np.float32), np.zeros((6, 1, 2, 2), np.float32)
    good[4:] = 1.0
    cosine = np.full((6, 2), 0.5, np.float32)
    assert reasons(good, cosine, [heat]) == [None] * 6
    bad = good.copy()
    bad[0, 1], bad[1, 1], bad[2], bad[3] = np.nan, -np.inf, 0.0, 1e30
    bent = cosine.copy()
    bent[4, 1] = 7.0
    assert reasons(bad, bent, [heat]) == [NAN, INFINITY, ZERO, TOO_LARGE, SIMILARITY, None]


@pytest.mark.parametrize("where", ["similarities", "heat", "estimate"])
@pytest.mark.parametrize("value", WRONG)
def test_any_number_of_a_row_spoils_it_and_no_other_row(where, value):
    arrays = {
        "embeddings": np.ones((3, 4), np.float32),
        "similarities": np.ones((3, 2), np.float32),
        "heat": np.zeros((3, 1, 2, 2), np.float32),
        "estimate": np.ones(3, np.float32),
    }
    arrays[where].reshape(3, -1)[1, -1] = value
    found = reasons(
        arrays["embeddings"], arrays["similarities"], [arrays["heat"], arrays["estimate"]]
    )
    assert found == [None, NAN if np.isnan(value) else INFINITY, None]


def test_a_black_picture_in_a_batch_has_no_answer_and_the_others_keep_theirs(load, without_epsilon):
    model = load(without_epsilon)
    alone = model(RED)
    first, black, last = model.run_batch([RED, BLACK, RED])
    assert (black.valid, black.error, black.answer) == (False, NAN, "no answer")
    assert (black.labels, black.estimate) == ([], None)
    assert black.neighbors.shape == black.similarities.shape == (0,)
    assert black.hottest() is None
    assert not black.heatmap.any()
    for result in (first, last):
        assert (result.valid, result.error, result.labels[0]) == (True, None, "red")
        assert np.array_equal(result.heatmap, alone.heatmap)
        assert np.array_equal(result.similarities, alone.similarities)


@pytest.mark.parametrize(
    ("factor", "reason"), [(np.nan, NAN), (np.inf, None), (0.0, ZERO), (1e30, TOO_LARGE)]
)
def test_an_estimate_out_of_such_numbers_is_none(load, outcome_with, factor, reason, scaled):
    result = load(scaled(factor), outcome_with())(RED)
    assert not result.valid
    assert result.error == (reason or result.error)
    assert result.estimate is None
    assert result.hottest_lower() is None
    assert not result.heatmap_lower.any()


def test_similarities_beyond_one_by_rounding_are_one(load):
    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "bank_t":
                longer = 1.0001 * numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(longer.astype(np.float32), "bank_t"))

    result = load(change)(RED)
    assert result.valid
    assert result.similarities.max() == 1.0


def test_a_library_may_return_any_row_for_nan(tiny_model):
    class Strange:
        def __init__(self, backend):
            self.backend, self.contract = backend, backend.contract
            self.name, self.device = backend.name, backend.device
            self.close = backend.close

        def run(self, images):
            outputs = {name: array.copy() for name, array in self.backend.run(images).items()}
            outputs["embedding"][:] = np.nan
            outputs["neighbor"][:] = -7
            return outputs

    with FoldedModel(Strange(open_backend(tiny_model, "cpu", 1))) as model:
        assert model(RED).error == NAN


def test_the_command_reports_it_keeps_what_was_written_and_ends_with_1(
    make_model, photo, tmp_path, runtime, without_epsilon
):
    model, black = make_model(change=without_epsilon), photo("a.png", (0, 0, 0))
    lines = tmp_path / "x.jsonl"
    done = runtime("run", model, "--file", black, "--jsonl", lines, "--json")
    assert done.returncode == 1
    assert "the only frame has no answer, because the network returned NaN" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["unanswered"] == {NAN: 1}
    assert json.loads(lines.read_text())["error"] == NAN
    photo("b.png", (200, 0, 0))
    done = runtime("run", model, "--file", black.parent, "--jsonl", lines, "--save", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    assert "no answer for 1 region: the network returned NaN" in done.stderr
