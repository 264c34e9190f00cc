"""Events: once per occurrence, with a line and two pictures, however a value flickers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foldcam.runtime.images.files import read_image
from foldcam.runtime.sinks import NotWritten, open_outputs
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.events import Detector, check_possible, heat_share
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def fired(make_item, make_result):
    """The seconds at which a rule fires, given one value per frame, `every` seconds apart."""

    def fired(values, every: float = 1.0, **keys) -> list[float]:
        rule = EventRule("a", **{"cooldown_seconds": 0.0, **keys})
        detector = Detector([rule], [False], [True])
        base = make_item(0).frame.captured
        found = []
        for index, value in enumerate(values):
            given = value if isinstance(value, str) else "owl"
            result = make_result(given, value if isinstance(value, float) else 0.9)
            item = make_item(index, result)
            object.__setattr__(item.frame, "captured", base + every * index)
            found += [every * index for _ in detector.events(item)]
        return found

    return fired


def test_an_occurrence_is_one_event(fired):
    assert fired([0.9, 0.3, 0.3, 0.3, 0.9, 0.9, 0.2], similarity_below=0.4) == [1, 6]
    assert fired([0.3, 0.9, 0.9], similarity_above=0.4) == [1]
    assert fired(["owl", "cat", "cat", "owl", "cat"], label=("cat",)) == [1, 4]
    assert fired(["owl", "cat", "dog", "owl"], not_label=("owl",)) == [1]
    assert fired(["owl", "cat", "dog", "owl", "dog"], label=("cat", "dog")) == [1, 4]
    assert fired(["owl", "cat", "dog", "owl", "cat"], not_label=("owl", "cat")) == [2]
    assert fired([0.3, 0.5, 0.9, 0.5], similarity_above=0.4, similarity_below=0.8) == [1, 3]


def test_a_threshold_is_not_reached_by_equality(fired):
    assert fired([0.5], similarity_below=0.5) == []
    assert fired([0.5], similarity_above=0.5) == []
    assert fired([float("nan")], similarity_above=0.5) == []


def test_a_minimum_duration_is_without_a_break(fired):
    values = [0.3, 0.3, 0.9, 0.3, 0.3, 0.3, 0.3]
    assert fired(values, for_seconds=2.0, similarity_below=0.4) == [5]
    assert fired(values, for_seconds=5.0, similarity_below=0.4) == []


def test_hysteresis_holds_a_flickering_value(fired):
    flicker = [0.39, 0.41] * 50
    assert len(fired(flicker, similarity_below=0.4)) == 50
    assert fired(flicker, hysteresis=0.05, similarity_below=0.4) == [0]
    assert fired([*flicker, 0.46, 0.41, 0.39], hysteresis=0.05, similarity_below=0.4) == [0, 102]
    assert fired([0.41, 0.36, 0.41, 0.34, 0.39, 0.41], hysteresis=0.05, similarity_above=0.4) == [
        0,
        5,
    ]


def test_a_cool_down_bounds_the_events_of_any_flicker(fired):
    flicker = ["cat", "owl"] * 50
    assert fired(flicker, cooldown_seconds=30.0, label=("cat",)) == [0, 30, 60, 90]
    # What still holds when the cool-down is over is an event then.
    values = [0.3, 0.9, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert fired(values, cooldown_seconds=5.0, similarity_below=0.4) == [0, 5]


def test_a_thousand_flickering_frames_are_few_events_by_default(fired):
    values = [0.39, 0.41] * 500
    default = EventRule("a", label=("owl",)).cooldown_seconds
    many = fired(values, 0.04, cooldown_seconds=default, similarity_below=0.4)
    assert len(many) == 4


def test_conditions_must_hold_in_one_region(make_item, make_result):
    rule = EventRule("a", label=("owl",), similarity_above=0.8)
    detector = Detector([rule], [True], [False])
    far = [make_result("owl", 0.3), make_result("cat", 0.95)]
    assert detector.events(make_item(0, *far)) == []
    (event,) = detector.events(make_item(1, *far, make_result("owl", 0.9, box=(1, 2, 3, 4))))
    assert event.result.box == (1, 2, 3, 4)


def test_streams_are_watched_apart_and_photographs_each_by_itself(make_item, make_result):
    rule = EventRule("a", similarity_below=0.4, cooldown_seconds=100)
    low = make_result("owl", 0.1)
    detector = Detector([rule], [False, False, True], [True, False, False])
    found = [
        (event.item.frame.stream, event.number)
        for index in range(3)
        for stream in (0, 1, 2)
        for event in detector.events(make_item(index, low, seconds=index, stream=stream))
    ]
    assert found == [(0, 1), (1, 2), (2, 3), (2, 4), (2, 5)]


def test_time_that_goes_back_begins_again(make_item, make_result):
    """A film that is played again, or a source whose time began again."""
    rule = EventRule("a", similarity_below=0.4, for_seconds=2, cooldown_seconds=5)
    detector = Detector([rule], [False], [False])
    low, high = make_result("owl", 0.1), make_result("owl", 0.9)
    times = []
    for seconds, result in [
        (100, low),
        (102, low),
        (103, high),
        (0, low),
        (1, low),
        (2, low),
        (5, low),
    ]:
        times += [seconds for _ in detector.events(make_item(0, result, seconds=seconds))]
    assert times == [102, 5]


def test_share_of_heat(make_item, make_result):
    # One hot quarter of two by two cells, painted bilinearly over 32 x 24.
    item = make_item(0, make_result(heat=[[1, 0], [0, 0]]))
    whole = heat_share(item, (0, 0, 32, 24))
    assert whole == pytest.approx(1.0)
    left = heat_share(item, (0, 0, 16, 24))
    assert left + heat_share(item, (16, 0, 100, 100)) == pytest.approx(1.0)
    assert 0.8 < left < 1
    assert heat_share(item, (500, 0, 5, 5)) == 0.0
    assert heat_share(make_item(0, make_result(heat=[[0, 0]])), (0, 0, 32, 24)) == 0.0


def test_heat_and_estimate_as_rules(make_item, make_result):
    heat = EventRule("a", heat_in=(0, 0, 16, 24), heat_above=0.8)
    dear = EventRule("b", estimate_above=100)
    detector = Detector([heat, dear], [True], [False])
    item = make_item(0, make_result(heat=[[1, 0]], estimate=101.0))
    assert [event.rule.name for event in detector.events(item)] == ["a", "b"]
    item = make_item(0, make_result(heat=[[0, 1]], estimate=100.0))
    assert detector.events(item) == []
    assert detector.events(make_item(0, make_result())) != []  # a model of labels has no estimate
    cold = EventRule("a", heat_in=(0, 0, 16, 24), heat_below=0.2)
    cheap = EventRule("b", estimate_below=100)
    band = EventRule("c", estimate_above=50, estimate_below=100)
    detector = Detector([cold, cheap, band], [True], [False])
    for heat, estimate, names in (
        ([[0, 1]], 99.0, ["a", "b", "c"]), ([[1, 0]], 50.0, ["b"]), ([[1, 0]], 100.0, []),
        ([[1, 0]], float("nan"), []),
    ):  # fmt: skip
        item = make_item(0, make_result(heat=heat, estimate=estimate))
        assert [event.rule.name for event in detector.events(item)] == names


ODD = EventRule("odd", similarity_below=0.4, cooldown_seconds=0)


def opened(folder, make_source, tiny_contract, **options):
    return open_outputs(
        [make_source()], OutputOptions(events=str(folder)), RecordingOptions(**options), [ODD],
        contract=tiny_contract,
    )  # fmt: skip


def test_a_line_and_two_pictures(tmp_path, make_item, make_result, make_source, contract_with):
    (sink,) = opened(tmp_path, make_source, contract_with())
    image = np.full((24, 32, 3), (30, 60, 90), np.uint8)
    with sink:
        for index, similarity in enumerate([0.9, 0.3, 0.3, 0.9, 0.2]):
            sink.write(make_item(index, make_result("owl", similarity), image=image))
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(line["event"], line["frame"], line["number"]) for line in lines] == [
        ("odd", 1, 1), ("odd", 4, 2),
    ]  # fmt: skip
    assert lines[0]["rule"] == {"similarity_below": 0.4}
    assert "embedding" not in lines[0]
    raw, drawn = (read_image(tmp_path / lines[0][kind]) for kind in ("raw", "snapshot"))
    assert abs(raw.astype(int) - image).max() < 10
    assert abs(raw.astype(int) - drawn).max() > 50
    assert len(list(tmp_path.glob("*.jpg"))) == 4
    # A second run adds to what is there.
    (sink,) = opened(tmp_path, make_source, contract_with())
    with sink:
        sink.write(make_item(0, make_result("owl", 0.1)))
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 3
    assert len(list(tmp_path.glob("*.jpg"))) == 6


def test_snapshots_are_kept_in_bounds(tmp_path, make_item, make_result, make_source, contract_with):
    (sink,) = opened(tmp_path, make_source, contract_with(), keep_gb=5e-6)
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    with sink:
        for index in range(40):
            sink.write(make_item(index, make_result("owl", 0.1 + 0.8 * (index % 2)), image=noise))
    for kind in ("odd-2*.jpg", "odd-raw-2*.jpg"):
        assert 0 < sum(path.stat().st_size for path in tmp_path.glob(kind)) <= 5000
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 20


def test_without_room_the_line_is_written_and_the_pictures_counted_as_lost(
    tmp_path, make_item, make_result, make_source, contract_with
):
    (sink,) = opened(tmp_path, make_source, contract_with(), min_free_gb=1e6)
    with sink, pytest.raises(NotWritten, match="are free on the disk"):
        sink.write(make_item(0, make_result("owl", 0.1)))
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"]


@pytest.mark.parametrize(
    ("keys", "labels", "message"),
    [
        ({"label": ("owll",)}, ["owl"], "asks for the label 'owll', which this model's bank does"),
        ({"not_label": ("owl", "ct")}, ["owl"], "asks for the label 'ct', which this model's bank"),
        ({"label": ("owl",)}, None, "asks for a label, and this model answers with an estimate"),
        ({"not_label": ("owl",)}, None, "asks for a label, and this model answers with an estim"),
        ({"estimate_above": 3}, ["owl"], "asks for an estimate, and this model answers with lab"),
        ({"estimate_below": 3}, ["owl"], "asks for an estimate, and this model answers with lab"),
    ],
)
def test_a_rule_that_this_model_can_never_meet_is_refused(keys, labels, message):
    with pytest.raises(FoldcamError, match=message):
        check_possible([EventRule("a", **keys)], labels)


def test_the_command_finds_events_in_photographs(runtime, tiny_model, photo, tmp_path):
    for name, color in (("a", (255, 0, 0)), ("b", (0, 0, 255)), ("c", (250, 10, 10))):
        photo(f"{name}.png", color)
    done = runtime(
        "run", tiny_model, "--file", tmp_path / "photos", "--events", "ev",
        "--event", "name=reds,label=red", "--event", "name=unknown,similarity_below=0.2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "working" / "ev"
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [line["source"][-5:] for line in lines] == ["a.png", "c.png"]
    assert {line["event"] for line in lines} == {"reds"}
    assert len(list(folder.glob("reds-*.jpg"))) == 4
    done = runtime(
        "run", tiny_model, "--file", tmp_path / "photos", "--events", "ev", "--event", "label=rd"
    )
    assert done.returncode == 1
    assert "asks for the label 'rd'" in done.stderr
