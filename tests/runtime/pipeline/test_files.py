"""Frames through model and sinks: nothing lost, nothing overwritten, nothing half-written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldcam.runtime import FoldcamError, FoldedModel, read_image
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sinks import StopRequested, open_sinks
from foldcam.runtime.sources import open_source
from foldcam.runtime.system.monitor import Percentiles


def go(model: Path, file: object, **outputs: object):
    source = open_source(file=str(file))
    return run(source, FoldedModel.load(model), open_sinks(source, **outputs))


def written(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_overlays_mirror_the_folders_and_never_collide(tiny_model, photo, tmp_path):
    for name in ("a/1.png", "b/1.png", "b/1.jpg", "b/1.bmp", "b/1.bmp.png"):
        photo(name)
    summary = go(tiny_model, tmp_path / "photos", save=str(tmp_path / "out"))
    assert summary.frames == 5
    assert written(tmp_path / "out") == [
        "a/1.png", "b/1.bmp-2.png", "b/1.bmp.png", "b/1.jpg", "b/1.png",
    ]  # fmt: skip


def test_overlay_has_heat_where_the_label_is(tiny_model, tmp_path):
    image = np.full((200, 200, 3), 40, np.uint8)
    image[100:, 100:, 0] = 255
    from foldcam.runtime import write_image

    write_image(tmp_path / "in" / "a.png", image)
    go(tiny_model, tmp_path / "in", save=str(tmp_path / "out"))
    drawn = read_image(tmp_path / "out" / "a.png").astype(int)
    assert abs(drawn[150, 150] - image[150, 150]).max() > 40
    # The cold corner still has its 40/255 of red: far less than the hot one.
    assert abs(drawn[10, 10] - image[10, 10]).max() < 40


def test_input_is_never_overwritten(tiny_model, photo, video, tmp_path):
    path = photo("a.png")
    before = path.read_bytes()
    for save in (path.parent, path):
        with pytest.raises(FoldcamError, match="is the input itself"):
            go(tiny_model, path, save=str(save))
    film = video("film.mp4")
    bytes_before = film.read_bytes()
    for save in (film, film.parent):
        with pytest.raises(FoldcamError, match="is the input itself"):
            go(tiny_model, film, save=str(save))
    assert path.read_bytes() == before
    assert film.read_bytes() == bytes_before


def test_single_photograph_under_the_name_asked_for(tiny_model, photo, tmp_path):
    go(tiny_model, photo("a.png"), save=str(tmp_path / "answer.jpg"))
    assert read_image(tmp_path / "answer.jpg").shape == (40, 60, 3)
    photo("b.png")
    with pytest.raises(FoldcamError, match="names one picture"):
        go(tiny_model, tmp_path / "photos", save=str(tmp_path / "answer.jpg"))
    with pytest.raises(FoldcamError, match=r"\.gif is not written; films are \.mp4"):
        go(tiny_model, tmp_path / "photos", save=str(tmp_path / "answer.gif"))


def test_json_lines(tiny_model, photo, tmp_path):
    photo("a.png", (255, 0, 0)), photo("b.png", (0, 0, 255))
    (tmp_path / "photos" / "c.png").write_bytes(b"")
    summary = go(tiny_model, tmp_path / "photos", jsonl=str(tmp_path / "out" / "x.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "out" / "x.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == [str(tmp_path / f"photos/{n}.png") for n in "ab"]
    first = lines[0]
    assert first["neighbors"][0] == {"row": 2, "label": "red", "similarity": 1.0}
    assert first["embedding"] == [1.0, 0.0, 0.0]
    assert (first["frame"], first["timestamp"], first["width"], first["height"]) == (0, 0, 60, 40)
    # All four quarters are equally hot; the first maximum is the top left quarter's centre.
    assert first["hottest"] == {"x": 15.0, "y": 10.0}
    assert set(first["timings_ms"]) == {"preprocess", "inference"}
    assert (summary.frames, len(summary.skipped)) == (2, 1)
    assert summary.labels == {"red": 1, "blue": 1}
    assert written(tmp_path / "out") == ["x.jsonl"]


def test_embedding_can_be_left_out(tiny_model, photo, tmp_path):
    go(tiny_model, photo("a.png"), jsonl=str(tmp_path / "x.jsonl"), embedding=False)
    assert "embedding" not in json.loads((tmp_path / "x.jsonl").read_text())


def test_numbers_that_are_not_finite_stay_json(make_model, photo, tmp_path):
    import onnx

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "bank_t":
                tensor.CopyFrom(
                    onnx.numpy_helper.from_array(np.full((3, 3), np.nan, np.float32), "bank_t")
                )

    go(make_model(change=change), photo("a.png"), jsonl=str(tmp_path / "x.jsonl"),
       save=str(tmp_path / "out"))  # fmt: skip
    line = json.loads((tmp_path / "x.jsonl").read_text(), parse_constant=pytest.fail)
    assert line["error"] == "the network returned NaN"
    assert line["neighbors"] == []


@pytest.mark.parametrize("name", ["out/", "film.mp4", "film.avi", "film.mkv"])
@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_video_is_written_whole(tiny_model, video, tmp_path, name, size):
    target = tmp_path / "made" / name
    summary = go(tiny_model, video("in.mp4", frames=30, size=size), save=str(target))
    path = target / "in.mp4" if name == "out/" else target
    assert summary.outputs == [str(path)]
    capture = cv2.VideoCapture(str(path))
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == 30
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20, abs=0.1)
    capture.release()
    assert len(written(tmp_path / "made")) == 1


def test_photographs_of_different_sizes_make_one_video(tiny_model, photo, tmp_path):
    photo("a.png"), photo("b.png", height=90, width=33)
    go(tiny_model, tmp_path / "photos", save=str(tmp_path / "slides.mp4"))
    with open_source(file=str(tmp_path / "slides.mp4")) as source:
        assert [frame.image.shape for frame in source] == [(40, 60, 3)] * 2


def test_nothing_usable_leaves_nothing(tiny_model, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(FoldcamError, match=r"no usable image: .*a\.jpg.*and 1 more"):
        go(tiny_model, tmp_path, jsonl=str(tmp_path / "out" / "x.jsonl"))
    assert written(tmp_path / "out") == []


def test_failure_leaves_nothing_under_the_final_names(tiny_model, video, tmp_path):
    source = open_source(file=str(video()))
    sinks = open_sinks(
        source, save=str(tmp_path / "o" / "v.mp4"), jsonl=str(tmp_path / "o" / "x.jsonl")
    )
    model = FoldedModel.load(tiny_model)
    seen = []

    def failing(image):
        seen.append(image)
        if len(seen) == 5:
            raise FoldcamError("out of luck")
        return model(image)

    with pytest.raises(FoldcamError, match="out of luck"):
        run(source, failing, sinks)
    assert written(tmp_path / "o") == []


def test_sink_that_asks_to_stop_ends_the_run_cleanly(tiny_model, video, tmp_path):
    class Stopping:
        name, may_skip, output = "stopping", False, None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, item):
            if item.frame.index == 3:
                raise StopRequested

    source = open_source(file=str(video()))
    sinks = [Stopping(), *open_sinks(source, jsonl=str(tmp_path / "x.jsonl"))]
    summary = run(source, FoldedModel.load(tiny_model), sinks)
    # Frames that were under way by then are finished, and every sink gets the same ones.
    assert 4 <= summary.frames < 40
    assert summary.interrupted
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == summary.frames


def test_live_video_keeps_real_time(tmp_path, tiny_model):
    """Ten frames a second into a 20 fps film: each is written twice."""
    from pathlib import PurePath

    from foldcam.runtime.sources import Frame

    class Live:
        name, stem, stills, live, frames, fps, skipped = "cam", "cam", False, True, None, 20.0, []

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __iter__(self):
            image = np.zeros((48, 64, 3), np.uint8)
            for index in range(10):
                yield Frame(image, index, "cam", PurePath("cam"), index / 10, time.monotonic())

    source = Live()
    run(source, FoldedModel.load(tiny_model), open_sinks(source, save=str(tmp_path)))
    with open_source(file=str(tmp_path / "cam.mp4")) as film:
        assert len(list(film)) == 19


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_run_is_complete(tiny_model, video, tmp_path, child_environment, number):
    film = video(frames=3000)
    out = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-m", "foldcam.runtime", "run", str(tiny_model), "--file", str(film),
         "--save", str(out / "v.mp4"), "--jsonl", str(out / "x.jsonl"), "--json"],
        env=child_environment(), cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        begun = list(out.glob(".x.*")) if out.exists() else []
        if begun and begun[0].stat().st_size > 5000:
            break
        time.sleep(0.02)
    child.send_signal(number)
    stdout, stderr = child.communicate(timeout=30)
    assert child.returncode == 0, stderr
    summary = json.loads(stdout)
    assert summary["interrupted"] is True
    assert 5 < summary["frames"] < 3000
    assert written(out) == ["v.mp4", "x.jsonl"]
    assert len((out / "x.jsonl").read_text().splitlines()) == summary["frames"]
    with open_source(file=str(out / "v.mp4")) as source:
        assert sum(1 for _ in source) == summary["frames"]


def limited(megabytes: float) -> str:
    """Python that limits the size of files, as a full disk would, then runs the program."""
    return (
        f"import resource, sys; n = int({megabytes} * 2**20); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "
        "from foldcam.runtime.cli.runtime import main; main()"
    )


@pytest.mark.parametrize("output", ["--save", "--jsonl"])
def test_disk_that_takes_no_more(tiny_model, tmp_path, child_environment, output):
    """OpenCV's writer says nothing when the disk is full; the file is checked instead."""
    path = tmp_path / "noise.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (320, 240))
    random = np.random.default_rng(0)
    for _ in range(40):
        writer.write(random.integers(0, 256, (240, 320, 3), np.uint8))
    writer.release()
    name = "v.avi" if output == "--save" else "x.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", limited(0.5 if output == "--save" else 0.001), "run",
         str(tiny_model), "--file", str(path), "--quiet", output, str(tmp_path / "out" / name)],
        env=child_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert written(tmp_path / "out") == []


def test_full_device_and_unwritable_folders(tiny_model, photo, tmp_path):
    path = photo("a.png")
    with pytest.raises(FoldcamError, match="No space left"):
        go(tiny_model, path, jsonl="/dev/full")
    assert Path("/dev/full").is_char_device()
    for outputs in (
        {"save": f"{path}/out"},
        {"save": f"{path}"},
        {"save": "/proc/nowhere"},
        {"save": f"{path}/v.mp4"},
        {"jsonl": f"{path}/x.jsonl"},
        {"jsonl": str(tmp_path)},
        {"jsonl": "/proc/x.jsonl"},
    ):
        with pytest.raises(FoldcamError):
            go(tiny_model, path, **outputs)
    assert written(tmp_path / "photos") == ["a.png"]


def test_window_without_display_or_toolkit(tiny_model, photo, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FoldcamError, match="--show cannot open a window"):
        go(tiny_model, photo("a.png"), show=True)


def test_display_that_does_not_answer(monkeypatch):
    """Qt would abort the process, past every `except`."""
    from foldcam.runtime.sinks import window

    monkeypatch.setattr(window, "has", lambda option: True)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":4711")
    assert ":4711 (from DISPLAY) does not answer" in window.why_no_window()


def test_percentiles_are_within_one_percent():
    times = np.random.default_rng(0).lognormal(2, 1, 5000)
    percentiles = Percentiles()
    for value in times:
        percentiles.add(float(value))
    for share in (0.5, 0.99):
        exact = np.quantile(times, share, method="inverted_cdf")
        assert percentiles.at(share) == pytest.approx(exact, rel=0.011)
    assert percentiles.mean == pytest.approx(times.mean())
    assert Percentiles().at(0.5) == 0
    for odd in (0.0, -1.0, 1e30):
        percentiles.add(odd)


def test_nothing_is_left_open(tiny_model, video, photo, tmp_path):
    film, picture = video(), photo("a.png")
    before = None
    for _ in range(4):
        go(tiny_model, film, save=str(tmp_path / "o"), jsonl=str(tmp_path / "o" / "x.jsonl"))
        go(tiny_model, picture, save=str(tmp_path / "o"))
        now = len(list(Path("/proc/self/fd").iterdir()))
        before = now if before is None else before
    assert now <= before


def test_json_lines_of_a_continuous_outcome(tiny_estimator, photo, tmp_path):
    photo("a.png", (255, 0, 0)), photo("b.png", (0, 0, 255))
    summary = go(tiny_estimator, tmp_path / "photos", jsonl=str(tmp_path / "x.jsonl"))
    first, second = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    # The cosine to one row is 1 and to the others 0, over tau = 0.5.
    weight = np.exp(2) / (np.exp(2) + 2)
    dear = 60 * weight + 30 * (1 - weight) / 2
    cheap = 10 * weight + 80 * (1 - weight) / 2
    assert first["estimate"] == pytest.approx(dear, rel=1e-5)
    assert second["estimate"] == pytest.approx(cheap, rel=1e-5)
    assert first["neighbors"][0] == {"row": 2, "similarity": 1.0}
    assert (first["hottest"], first["hottest_lower"]) == ({"x": 15.0, "y": 10.0}, None)
    assert (second["hottest"], second["hottest_lower"]) == (None, {"x": 15.0, "y": 10.0})
    assert summary.labels == {}
    assert summary.estimate == pytest.approx(
        {"mean": (dear + cheap) / 2, "low": cheap, "high": dear}, rel=1e-5
    )


def test_a_model_of_labels_has_no_estimate_in_its_json(tiny_model, photo, tmp_path):
    summary = go(tiny_model, photo("a.png"), jsonl=str(tmp_path / "x.jsonl"))
    line = json.loads((tmp_path / "x.jsonl").read_text())
    assert "estimate" not in line
    assert "hottest_lower" not in line
    assert summary.estimate is None


def test_the_overlay_of_a_continuous_outcome_has_both_colours(tiny_estimator, tmp_path):
    from foldcam.runtime import write_image

    image = np.full((200, 200, 3), 90, np.uint8)
    image[:100, :100] = (220, 90, 90)
    image[100:, 100:] = (90, 90, 220)
    write_image(tmp_path / "in" / "a.png", image)
    go(tiny_estimator, tmp_path / "in", save=str(tmp_path / "out"))
    drawn = read_image(tmp_path / "out" / "a.png").astype(int)
    warm, cold, grey = drawn[30, 30], drawn[150, 170], drawn[30, 170]
    assert warm[0] > warm[2] + 60
    assert cold[2] > cold[0] + 20
    assert abs(grey - 90).max() < 5


def test_table_and_status_show_the_estimate(tiny_estimator, photo):
    from foldcam.runtime.pipeline.status import status_text
    from foldcam.runtime.pipeline.summary import Progress
    from foldcam.runtime.sinks.table import TableSink

    table, seen = TableSink(), []
    source = open_source(file=str(photo("a.png", (255, 0, 0))))

    def watch(progress: Progress) -> None:
        seen.append(status_text(progress))

    run(source, FoldedModel.load(tiny_estimator), [table], watch)
    assert "estimate" in str(table).splitlines()[0]
    assert "nearest label" not in str(table)
    assert "50.41" in str(table).splitlines()[1]
    assert seen[0].endswith("estimate: 50.41")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (512_347.2, "512,300"),
        (0.0, "0"),
        (3.14159, "3.142"),
        (-20.0, "-20"),
        (999.96, "1,000"),
        (0.00012345, "0.0001234"),
        (1e20, "1.000e+20"),
        (float("nan"), "nan"),
        (12_345_678.0, "12,350,000"),
    ],
)
def test_numbers_are_short_to_read(value, text):
    from foldcam.runtime.system.text import number_text

    assert number_text(value) == text
