"""What a newcomer sees first: a source by position, results in the JSON, the network's time."""

from __future__ import annotations

import json

import pytest

from foldcam.runtime.sinks import table
from foldcam.runtime.sinks.table import RememberedResults


def test_a_photograph_by_position_gives_its_results(runtime, tiny_model, photo):
    path = photo("a.png", (200, 30, 20))
    lines = runtime("run", tiny_model, path, "--jsonl", "-", "--no-embedding", "--quiet")
    alone = runtime("run", path, "--json", env={"FOLDCAM_MODEL": str(tiny_model)})
    for done in (runtime("run", tiny_model, path, "--json"), alone):
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        (result,) = document["results"]
        assert document["results_left_out"] == 0
        assert (result["answer"], result["label"]) == ("red", "red")
        assert result["similarity"] == result["neighbors"][0]["similarity"]
        assert result["unknown"] is None
        line = json.loads(lines.stdout)
        same = set(line) - {"time", "age_ms", "timings_ms"}
        assert {key: result[key] for key in same} == {key: line[key] for key in same}
        region = result["hottest_region"]
        assert (region["x"], region["y"]) == (0, 0)
        assert (region["width"], region["height"]) == (result["width"], result["height"])
        assert region["share"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("photo.jpg", "model.onnx"), "the model comes first"),
        (("model.onnx", "photo.jpg", "--camera", "0"), "a second source"),
        (("model.onnx",), "give a SOURCE"),
    ],
)
def test_arguments_that_cannot_be_meant_are_wrong_usage(runtime, arguments, said):
    done = runtime("run", *arguments, env={"COLUMNS": "300"})
    assert done.returncode == 2
    assert said in done.stderr


def test_a_source_by_position_that_is_not_there_is_named(runtime, tiny_model):
    done = runtime("run", "nothing.jpg", env={"FOLDCAM_MODEL": str(tiny_model)})
    assert (done.returncode, done.stderr) == (1, "error: nothing.jpg does not exist.\n")


def test_a_model_of_any_name_is_the_model_beside_a_flag(runtime, tiny_model, photo, tmp_path):
    other = tmp_path / "working" / "mine"
    other.write_bytes(tiny_model.read_bytes())
    done = runtime("run", "mine", "--file", photo("a.png"))
    assert done.returncode == 0, done.stderr


def test_results_in_memory_are_bounded_and_the_rest_is_counted(monkeypatch, make_frames):
    monkeypatch.setattr(table, "MOST_RESULTS", 3)
    sink = RememberedResults()
    for item in make_frames(5):
        sink.write(item)
    document = sink.document()
    assert [result["frame"] for result in document["results"]] == [0, 1, 2]
    assert document["results_left_out"] == 2
    assert sink.note == (
        "the JSON document has the first 3 of 5 results: --jsonl FILE writes all of them."
    )


@pytest.fixture
def make_frames(tiny_model):
    from foldcam.runtime import FoldedModel
    from foldcam.runtime.model.frame_results import FrameResults
    from foldcam.runtime.sources import open_source
    from foldcam.runtime.sources.options import SourceOptions

    def frames(count: int) -> list[FrameResults]:
        source = open_source("test://?size=64x48&frames=9", SourceOptions())
        with source, FoldedModel.load(tiny_model) as model:
            taken = [frame for _, frame in zip(range(count), source, strict=False)]
            return [FrameResults(frame, [model(frame.image)]) for frame in taken]

    return frames


def test_of_files_the_network_s_time_is_said_and_not_that_in_a_queue(runtime, tiny_model, video):
    done = runtime("run", tiny_model, video(frames=10), "--every", "2", "--jsonl", "x.jsonl")
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("5 frames in ")
    assert " fps), network " in first
    assert first.endswith(" ms per image, 5 frames left out by --every")
    assert "p50" not in done.stdout


def test_frames_left_out_by_every_are_no_drops_in_json(runtime, tiny_model, video):
    done = runtime("run", tiny_model, video(frames=10), "--every", "5", "--json")
    document = json.loads(done.stdout)
    (stream,) = document["streams"]
    assert (stream["thinned"], stream["drops"]) == (8, {})
    assert (stream["captured"], stream["processed"]) == (10, 2)
    assert 0 < document["network_ms"]["p50"] <= document["latency_ms"]["p99"]


def test_of_live_sources_the_time_from_capture_is_said(runtime, tiny_model):
    done = runtime("run", tiny_model, "test://?size=64x48&frames=5&rate=50")
    assert done.returncode == 0, done.stderr
    assert "from capture to result: p50 " in done.stdout
