"""A run with votes: results, captions, records and events follow the vote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import pytest

from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import record
from foldcam.runtime.model.vote import Vote
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.events import Detector
from foldcam.runtime.sources import Frame, Source
from foldcam.runtime.sources.options import FlowOptions

COLORS = {"red": (200, 0, 0), "green": (0, 200, 0)}


class Film(Source):
    """Frames of one colour each, a second apart."""

    def __init__(self, colors, live: bool = False) -> None:
        super().__init__("film")
        self._colors, self.live = colors, live

    def __iter__(self):
        for index, color in enumerate(self._colors):
            image = np.full((16, 16, 3), COLORS[color], np.uint8)
            yield Frame(image, index, "film", PurePath("film"), float(index), 100.0 + index)


class Kept(Sink):
    def __init__(self) -> None:
        self.items = []

    def write(self, item) -> None:
        self.items.append(item)


@pytest.fixture
def model(tiny_model):
    from foldcam.runtime import FoldedModel

    with FoldedModel.load(tiny_model) as model:
        yield model


def test_a_run_votes_where_it_is_asked_to(model):
    colors = ["red"] * 4 + ["green"] + ["red"] * 2
    kept, plain = Kept(), Kept()
    run(Film(colors), model, [kept], flow=FlowOptions(vote_seconds=3.0))
    votes = [item.result.vote for item in kept.items]
    assert [item.result.labels[0] for item in kept.items] == colors
    assert {vote.label for vote in votes} == {"red"}
    assert [vote.frames for vote in votes] == [1, 2, 3, 3, 3, 3, 3]
    assert votes[4].support == pytest.approx(2 / 3)
    run(Film(colors), model, [plain])
    assert {item.result.vote for item in plain.items} == {None}


def test_the_progress_names_the_voted_label(model):
    said = []
    run(
        Film(["red", "red", "red", "green"]), model, [], lambda now: said.append(now.answer),
        flow=FlowOptions(vote_seconds=9.0),
    )  # fmt: skip
    assert said[-1] == "red"


def caption(result) -> str:
    frame = Frame(np.zeros((8, 8, 3), np.uint8), 0, "s", PurePath("s"), 0.0, 0.0)
    return FrameResults(frame, [result], Style()).caption


def test_a_caption_begins_with_the_voted_label(make_answer):
    agreeing = replace(make_answer("owl"), vote=Vote("owl", 0.916, 24, 0.0))
    assert caption(agreeing) == "owl  0.50, 92% of 24 frames"
    other = replace(make_answer("gull"), vote=Vote("owl", 0.6, 5, 0.0))
    assert caption(other) == "owl, 60% of 5 frames; now gull  0.50"
    unanswered = replace(make_answer("NaN"), vote=Vote("owl", 1.0, 1, 0.0))
    assert caption(unanswered).startswith("owl, 100% of 1 frame; now no answer: ")
    unknown = replace(make_answer("gull"), vote=Vote(None, 0.6, 5, 0.0))
    assert caption(unknown).startswith("unknown, 60% of 5 frames; now ")


def test_the_label_of_a_region_is_short():
    assert str(Vote("owl", 0.533, 15, 0.0)) == "owl  53%"
    assert str(Vote(None, 1.0, 1, 0.0)) == "unknown  100%"


def test_a_record_has_the_vote_and_the_frame_s_own_answer(make_answer, make_frame):
    voted = replace(make_answer("gull"), vote=Vote("owl", 2 / 3, 3, 1.5))
    document = json.loads(json.dumps(record(make_frame(2.0), voted)))
    assert document["vote"] == {
        "label": "owl", "unknown": False, "support": 0.666667, "frames": 3, "since": 1.5,
    }  # fmt: skip
    assert document["neighbors"][0]["label"] == "gull"
    unknown = record(make_frame(2.0), replace(voted, vote=Vote(None, 1.0, 1, 0.0)))
    assert (unknown["vote"]["label"], unknown["vote"]["unknown"]) == (None, True)
    assert "vote" not in record(make_frame(2.0), make_answer("gull"))


def test_parquet_has_the_vote(make_answer, make_frame, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    from foldcam.runtime.sinks.parquet import ParquetSink

    votes = [Vote("owl", 0.5, 2, 1.5), Vote(None, 1.0, 1, 0.0), None]
    with ParquetSink(tmp_path / "v.parquet", 2) as sink:
        for vote in votes:
            sink.write(FrameResults(make_frame(0.0), [replace(make_answer(), vote=vote)]))
    assert pq.read_table(tmp_path / "v.parquet")["vote"].to_pylist() == [
        {"label": "owl", "support": 0.5, "frames": 2, "since": 1.5},
        {"label": None, "support": 1.0, "frames": 1, "since": 0.0},
        None,
    ]


@pytest.mark.parametrize(
    ("vote", "label", "not_label"),
    [
        (None, True, False),  # the frame's own answer is owl
        (Vote("owl", 0.6, 5, 0.0), True, False),
        (Vote("gull", 0.6, 5, 0.0), False, True),
        (Vote(None, 0.6, 5, 0.0), False, True),
    ],
)
def test_rules_for_labels_ask_the_vote(make_answer, make_frame, vote, label, not_label):
    rules = [EventRule("is", label=("owl",)), EventRule("not", not_label=("owl",))]
    item = FrameResults(make_frame(0.0), [replace(make_answer("owl"), vote=vote)])
    found = {event.rule.name for event in Detector(rules, [True], [False]).events(item)}
    assert ("is" in found, "not" in found) == (label, not_label)


def test_a_label_that_flickers_is_one_event_with_votes(model):
    colors = ["red", "red", "red", "green", "red", "red", "green", "red"]
    counts = []
    for seconds in (None, 3.0):
        kept = Kept()
        run(Film(colors), model, [kept], flow=FlowOptions(vote_seconds=seconds))
        rule = EventRule("red", label=("red",), cooldown_seconds=0.0)
        detector = Detector([rule], [False], [False])
        counts.append(sum(len(detector.events(item)) for item in kept.items))
    assert counts == [3, 1]


def test_votes_over_an_estimate_are_refused(runtime, tiny_estimator, video):
    done = runtime("run", tiny_estimator, "--file", video(), "--vote", "2")
    assert done.returncode == 1
    assert "votes over labels" in done.stderr


def test_photographs_do_not_vote_and_that_is_said(runtime, tiny_model, photo):
    done = runtime("run", tiny_model, "--file", photo("a.png"), "--vote", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert "note: --vote changes nothing for " in done.stderr
    assert "vote" not in json.loads(done.stdout)["results"][0]


def test_a_vote_may_be_asked_for_in_a_file(runtime, tiny_model, video, tmp_path):
    (tmp_path / "working" / "run.toml").write_text("[flow]\nvote_seconds = 0.5\n")
    done = runtime(
        "run", tiny_model, video(frames=10), "--config", "run.toml", "--jsonl", "-", "--quiet"
    )
    assert done.returncode == 0, done.stderr
    votes = [json.loads(line)["vote"] for line in done.stdout.splitlines()]
    assert [vote["frames"] for vote in votes] == list(range(1, 11))
    assert {vote["label"] for vote in votes} == {"red"}
