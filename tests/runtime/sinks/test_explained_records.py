"""Evidence and runner-up in every output of numbers: lines, events, Parquet, the summary."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from foldcam.runtime.model.record import record
from foldcam.runtime.model.unanswered import NAN
from foldcam.runtime.pipeline.summary import Progress, Tally
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.events import Detector, boxes_of, event_document
from foldcam.runtime.sinks.jsonl import lines_of
from foldcam.runtime.sinks.opening import open_outputs
from foldcam.runtime.sinks.options import OutputOptions
from foldcam.runtime.system.monitor import Monitor

SIGNED = np.array([[0.3, -0.2], [0.1, 0.0]], np.float32)


@pytest.fixture
def explained(make_result):
    return replace(
        make_result(heat=np.maximum(SIGNED, 0) / SIGNED.max()),
        contribution=SIGNED,
        contrast=SIGNED - np.float32(0.1),
        runner_up=3,
        runner_up_label="gull",
        runner_up_similarity=0.25,
    )


def test_a_line_has_both_sums_and_the_runner_up(make_item, explained):
    line = json.loads(lines_of(make_item(0, explained), embedding=False))
    assert line["evidence_for"] == pytest.approx(0.4)
    assert line["evidence_against"] == pytest.approx(0.2)
    assert line["runner_up"] == {"row": 3, "label": "gull", "similarity": 0.25}


def test_a_model_without_these_outputs_has_the_lines_of_before(make_item, make_result):
    line = json.loads(lines_of(make_item(0, make_result()), embedding=False))
    assert not {"evidence_for", "evidence_against", "runner_up", "shares"} & set(line)


def test_no_evidence_is_zero_and_no_answer_is_null(make_item, explained):
    item = make_item()
    against = replace(explained, contribution=-np.abs(SIGNED))
    assert record(item.frame, against)["evidence_for"] == 0
    broken = replace(explained, error=NAN, runner_up=None, labels=[], neighbors=np.empty(0, int))
    broken = replace(broken, similarities=np.empty(0, np.float32))
    found = record(item.frame, broken)
    assert (found["evidence_for"], found["evidence_against"], found["runner_up"]) == (None,) * 3


def test_an_event_with_a_box_says_how_much_of_the_evidence_lies_in_it(make_item, explained):
    # The upper half of the frame of 32 x 24 pixels.
    rule = EventRule("above", heat_in=(0, 0, 32, 12), heat_above=0.1)
    (event,) = Detector([rule], [True], [False]).events(make_item(0, explained))
    document = event_document(event)
    share = document["shares"]["above"]
    assert share == pytest.approx({"evidence_for": 0.75, "evidence_against": 1.0})
    (event,) = Detector([EventRule("owl", label=("owl",))], [True], [False]).events(
        make_item(0, explained)
    )
    assert "shares" not in event_document(event)


def test_lines_say_how_much_of_the_evidence_lies_in_the_boxes_of_rules(make_item, explained):
    boxes = boxes_of(
        [
            EventRule("left", heat_in=(0, 0, 16, 24), heat_above=0.1),
            EventRule("owl", label=("owl",)),
            EventRule("far", heat_in=(500, 0, 9, 9), heat_below=0.5),
        ]
    )
    line = json.loads(lines_of(make_item(0, explained), embedding=False, boxes=boxes))
    assert line["shares"] == {
        "left": {"evidence_for": 1.0, "evidence_against": 0.0},
        "far": {"evidence_for": 0.0, "evidence_against": 0.0},
    }


def test_the_boxes_of_rules_reach_every_output(
    make_item, make_source, explained, tmp_path, contract_with
):
    pq = pytest.importorskip("pyarrow.parquet")
    lines, table = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    output = OutputOptions(jsonl=str(lines), parquet=str(table))
    rules = [EventRule("left", heat_in=(0, 0, 16, 24), heat_above=0.1)]
    with ExitStack() as stack:
        for sink in open_outputs(
            [make_source(live=False)], output, None, rules, contract=contract_with()
        ):
            stack.enter_context(sink)
            sink.write(make_item(0, explained))
    share = {"evidence_for": 1.0, "evidence_against": 0.0}
    assert json.loads(lines.read_text())["shares"] == {"left": share}
    assert pq.read_table(table).to_pylist()[0]["shares"] == [{"box": "left", **share}]


def test_parquet_has_columns_that_are_null_for_other_models(
    make_item, make_result, explained, tmp_path
):
    pq = pytest.importorskip("pyarrow.parquet")
    from foldcam.runtime.sinks.parquet import ParquetSink

    path = tmp_path / "a.parquet"
    with ParquetSink(path, 3) as sink:
        sink.write(make_item(0, explained))
        sink.write(make_item(1, make_result()))
    first, second = pq.read_table(path).to_pylist()
    assert first["evidence_for"] == pytest.approx(0.4)
    assert first["evidence_against"] == pytest.approx(0.2)
    assert (first["runner_up"], first["runner_up_label"]) == (3, "gull")
    assert first["runner_up_similarity"] == 0.25
    names = ("evidence_for", "evidence_against", "runner_up", "runner_up_label")
    assert [second[name] for name in names] == [None] * 4


def test_the_tally_counts_answers_without_evidence(explained):
    blank = replace(explained, heatmap=np.zeros((2, 2), np.float32))
    tally = Tally(Progress(None, Monitor()))
    for results in ([explained], [blank], [blank, explained], [replace(blank, error=NAN)]):
        tally.add(results)
    assert (tally.answered, tally.no_evidence) == (4, 2)
