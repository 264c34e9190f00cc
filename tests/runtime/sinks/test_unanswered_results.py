"""A result that is no answer: every output says why, and no event fires on it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from foldcam.runtime.model.record import record
from foldcam.runtime.model.unanswered import NAN
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.events import Detector
from foldcam.runtime.sinks.table import TableSink
from foldcam.runtime.web.packet import answers


@pytest.mark.parametrize(
    "keys",
    [{"label": ("owl",)}, {"not_label": ("owl",)}, {"similarity_below": 0.5},
     {"similarity_above": -1}, {"heat_in": (0, 0, 32, 24), "heat_below": 1}],
)  # fmt: skip
def test_no_event_fires_on_it(make_item, make_result, keys):
    broken = replace(make_result(), labels=[], error=NAN, similarities=np.empty(0, np.float32))
    detector = Detector([EventRule("a", **keys)], [True], [False])
    assert detector.events(make_item(0, broken)) == []


def test_one_such_frame_neither_ends_an_occurrence_nor_begins_another(make_item, make_result):
    broken = replace(make_result(), labels=[], error=NAN)
    rule = EventRule("a", label=("owl",), cooldown_seconds=0.0)
    detector = Detector([rule], [False], [True])
    frames = [make_item(n, broken if n == 2 else make_result(), seconds=float(n)) for n in range(5)]
    assert [len(detector.events(item)) for item in frames] == [1, 0, 0, 0, 0]


def test_every_output_says_why(make_item, make_result):
    broken = replace(
        make_result(embedding=[np.nan] * 3), labels=[], error=NAN,
        neighbors=np.empty(0, np.int32), similarities=np.empty(0, np.float32),
    )  # fmt: skip
    item = make_item(0, broken)
    line = json.loads(json.dumps(record(item.frame, broken), allow_nan=False))
    assert (line["error"], line["neighbors"], line["embedding"]) == (NAN, [], None)
    (answer,) = answers(item)
    assert (answer["answer"], answer["error"]) == ("no answer", NAN)
    assert item.caption == "no answer: the network returned NaN"
    assert item.image.shape == item.frame.image.shape
    table = TableSink()
    table.write(item)
    table.write(make_item(1))
    assert "no answer: the network returned NaN           -" in str(table)
    assert "owl" in str(table)


def test_parquet_has_a_column_for_it(make_item, make_result, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    from foldcam.runtime.sinks.parquet import ParquetSink

    broken = replace(make_result(), labels=[], error=NAN, neighbors=np.empty(0, np.int32))
    with ParquetSink(tmp_path / "x.parquet", 3) as sink:
        sink.write(make_item(0, broken))
        sink.write(make_item(1))
    rows = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["error"] for row in rows] == [NAN, None]
    assert [row["labels"] for row in rows] == [[], ["owl", "other"]]
