"""Unknown is an answer: in results, captions, records, events, pictures, summary and metrics."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.unknown import UnknownRule, given_rule
from foldcam.runtime.images.files import write_image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.forward_pass import known_scores
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import record
from foldcam.runtime.pipeline.config import ModelOptions
from foldcam.runtime.pipeline.opening import unknown_rule
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.events import check_possible, matching_region
from foldcam.runtime.sources.base import Frame
from foldcam.runtime.system.errors import FoldcamError

RULE = UnknownRule("similarity", 0.8, "0" * 64, 0.95, "held-out images", "colours", 40, 0.95,
                   "labels left out", 40, 0.25)  # fmt: skip
RED = np.full((8, 8, 3), (255, 0, 0), np.uint8)
GREY = np.full((8, 8, 3), 128, np.uint8)


def _frame(image):
    from pathlib import PurePath

    return Frame(image, 0, "cam", PurePath("cam"), 0.0, 0.0, 0)


@pytest.fixture
def with_rule(make_model, contract_with):
    """The tiny model with a rule: red is 1.0 like red, grey 0.58 like every colour."""
    return make_model(contract=contract_with(unknown=RULE))


def test_below_the_threshold_the_answer_is_unknown(with_rule):
    with FoldedModel.load(with_rule, provider="cpu") as model:
        known, unknown = model.run_batch([RED, GREY])
    assert (known.unknown, known.answer) == (False, "red")
    assert known.known_score == pytest.approx(1.0)
    assert (unknown.unknown, unknown.answer) == (True, "unknown")
    assert unknown.known_score == pytest.approx(3**-0.5)
    assert len(unknown.labels) == 2


def test_without_a_rule_there_is_neither_known_nor_unknown(tiny_model):
    with FoldedModel.load(tiny_model, provider="cpu") as model:
        result = model(GREY)
    assert (result.unknown, result.known_score) == (None, None)
    assert result.answer in ("blue", "green", "red")


def test_what_is_no_answer_is_not_unknown(make_model, contract_with, scaled):
    path = make_model(contract=contract_with(unknown=RULE), change=scaled(float("nan")))
    with FoldedModel.load(path, provider="cpu") as model:
        result = model(GREY)
    assert (result.answer, result.unknown, result.known_score) == ("no answer", None, None)


def test_a_score_at_the_threshold_is_known_and_nan_is_not():
    assert not RULE.is_unknown(0.8)
    assert RULE.is_unknown(np.nextafter(0.8, 0.0))
    assert RULE.is_unknown(float("nan"))


def test_the_margin_is_added_to_the_similarity():
    outputs = {
        "similarity": np.asarray([[0.9, 0.8]], np.float32),
        "runner_up_similarity": np.asarray([0.5], np.float32),
    }
    rule = replace(RULE, score="similarity_and_margin")
    np.testing.assert_allclose(known_scores(rule, outputs), [1.3], atol=1e-6)


def test_a_contract_keeps_its_rule(contract_with):
    contract = contract_with(unknown=RULE)
    assert parse_contract(contract.to_json(), "x") == contract
    assert parse_contract(contract_with().to_json(), "x").unknown is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bank_sha256": "f" * 64}, "another bank"),
        ({"accept": 1.5}, "accept is 1.5"),
        ({"known_accepted": -0.1}, "known_accepted"),
        ({"score": "similarity_and_margin"}, "runner_up_similarity"),
        ({"score": "guess"}, "score"),
        ({"threshold": "high"}, "threshold"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_name(contract_with, changes, words):
    document = json.loads(contract_with(unknown=RULE).to_json())
    document["unknown"] |= changes
    with pytest.raises(FoldcamError, match=words):
        parse_contract(json.dumps(document), "x.onnx")


def test_an_estimate_is_never_unknown(outcome_with):
    document = json.loads(outcome_with().to_json())
    document["unknown"] = RULE.document()
    with pytest.raises(FoldcamError, match="continuous"):
        parse_contract(json.dumps(document), "x.onnx")
    with pytest.raises(FoldcamError, match="answers with an estimate"):
        unknown_rule(ModelOptions(unknown_below=0.4), outcome_with())


def test_a_run_may_have_a_number_of_its_own_or_none(contract_with):
    contract = contract_with(unknown=RULE)
    assert unknown_rule(ModelOptions(), contract) == RULE
    assert unknown_rule(ModelOptions(unknown=False), contract) is None
    given = unknown_rule(ModelOptions(unknown_below=0.4), contract)
    assert given == given_rule(0.4, contract.bank.sha256)
    with pytest.raises(FoldcamError, match="exclude each other"):
        unknown_rule(ModelOptions(unknown=False, unknown_below=0.4), contract)


def test_captions_and_records_say_so(with_rule, tiny_model):
    with FoldedModel.load(with_rule, provider="cpu") as model:
        results = [model(image) for image in (RED, GREY)]
    captions = [
        FrameResults(_frame(i), [r]).caption for i, r in zip((RED, GREY), results, strict=True)
    ]
    assert captions[0].startswith("red  1.00")
    assert captions[1].startswith("unknown, nearest ")
    documents = [record(_frame(RED), result) for result in results]
    assert [document["unknown"] for document in documents] == [False, True]
    assert documents[1]["known_score"] == pytest.approx(3**-0.5)
    with FoldedModel.load(tiny_model, provider="cpu") as model:
        assert "unknown" not in record(_frame(RED), model(RED))


def test_the_heat_of_an_unknown_has_no_colour(with_rule):
    with FoldedModel.load(with_rule, provider="cpu") as model:
        known, unknown = model.run_batch([RED, GREY])
    dark = np.full((8, 8, 3), 40, np.uint8)
    from foldcam.runtime.model.drawing.style import Style

    plain = Style(caption=False)
    pictures = [FrameResults(_frame(dark), [each], plain).image for each in (known, unknown)]
    spread = [int(np.ptp(picture.astype(int), axis=2).max()) for picture in pictures]
    assert spread[0] > 50
    assert spread[1] == 0
    # It stays visible, and is never as strong as an answer's.
    assert pictures[1].max() > 60
    assert pictures[1].max() < 40 + 0.31 * (208 - 40)


def test_heat_itself_is_the_same_for_known_and_unknown(with_rule):
    with FoldedModel.load(with_rule, provider="cpu") as model:
        item = FrameResults(_frame(GREY), [model(GREY)])
    assert item.heat.max() == pytest.approx(1.0)


def test_events_of_what_is_unknown(with_rule):
    with FoldedModel.load(with_rule, provider="cpu") as model:
        known, unknown = (FrameResults(_frame(i), [model(i)]) for i in (RED, GREY))
    nearest = unknown.result.labels[0]

    def meets(item, **keys):
        return matching_region(EventRule("a", **keys), item, begun=False) is not None

    assert [meets(item, unknown=True) for item in (known, unknown)] == [False, True]
    assert [meets(item, unknown=False) for item in (known, unknown)] == [True, False]
    # An unknown image shows none of the labels, also not the nearest one.
    assert not meets(unknown, label=(nearest,))
    assert meets(unknown, not_label=(nearest,))
    assert meets(unknown, unknown=True, similarity_below=0.6)


def test_an_event_of_a_model_without_a_rule_is_refused():
    rule = EventRule("stranger", unknown=True)
    with pytest.raises(FoldcamError, match="foldcam threshold"):
        check_possible([rule], ["owl"])
    with pytest.raises(FoldcamError, match="estimate_above"):
        check_possible([rule], None)
    check_possible([rule], ["owl"], answers_unknown=True)


def test_a_run_counts_and_writes_them(runtime, with_rule, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, image in (("red", RED), ("grey", GREY)):
        write_image(photos / f"{name}.png", image)
    lines = tmp_path / "out.jsonl"
    done = runtime(
        "run", with_rule, "--file", photos, "--jsonl", lines, "--json",
        "--event", "name=stranger,unknown=true", "--events", tmp_path / "events",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["unknown"], summary["answered"], summary["labels"]) == (1, 2, {"red": 1})
    assert summary["streams"][0]["unknown"] == 1
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert sorted(line["unknown"] for line in written) == [False, True]
    (event,) = (tmp_path / "events" / "events.jsonl").read_text().splitlines()
    assert json.loads(event)["rule"] == {"unknown": True}
    off = runtime("run", with_rule, "--file", photos, "--no-unknown", "--json")
    assert json.loads(off.stdout)["unknown"] is None
    raw = runtime("run", with_rule, "--file", photos, "--unknown-below", "0.5", "--json")
    assert json.loads(raw.stdout)["unknown"] == 0


def test_inspect_says_the_rule(runtime, with_rule):
    done = runtime("inspect", with_rule)
    assert "unknown if similarity is below 0.8" in done.stdout
    assert "25.0% of 40 unknown ones (labels left out of the bank)" in done.stdout
