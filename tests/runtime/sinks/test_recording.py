"""Recordings of any length: rotated, bounded, paused before a full disk, sound when killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldcam.runtime.sinks import NotWritten, open_outputs
from foldcam.runtime.sinks.jsonl import JsonlSink, repair_jsonl
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions
from foldcam.runtime.sinks.recording import Recording
from foldcam.runtime.sinks.segments import DiskGuard, Segments
from foldcam.runtime.sources import open_source
from foldcam.runtime.system.errors import FoldcamError


def names(folder: Path) -> list[str]:
    """What is in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def lines_of(folder: Path, suffix: str = ".jsonl") -> list[list[int]]:
    """The frames of every segment in order."""
    return [
        [json.loads(line)["frame"] for line in path.read_text().splitlines()]
        for path in sorted(folder.glob(f"*{suffix}"))
    ]


def jsonl(path: Path, live: bool = True, guard: DiskGuard | None = None, **options) -> Recording:
    return Recording(
        "jsonl", path, RecordingOptions(**options), live, lambda part: JsonlSink(str(part)),
        repair_jsonl, guard,
    )  # fmt: skip


def test_segments_by_time_have_all_frames_in_order(tmp_path, make_item):
    with jsonl(tmp_path / "a.jsonl", rotate_minutes=1) as sink:
        for index in range(10):
            sink.write(make_item(index, seconds=20.0 * index))
    assert lines_of(tmp_path) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    for number, name in enumerate(names(tmp_path), start=1):
        assert name.endswith(f"Z-{number:06d}.jsonl")
        datetime.strptime(name[2:18], "%Y%m%dT%H%M%SZ")
    assert sink.output == str(tmp_path / "a-*.jsonl")


def test_segments_by_size(tmp_path, make_item):
    with jsonl(tmp_path / "a.jsonl", rotate_mb=0.001) as sink:
        for index in range(9):
            sink.write(make_item(index))
    frames = lines_of(tmp_path)
    assert [frame for each in frames for frame in each] == list(range(9))
    assert len(frames) > 2
    assert all(path.stat().st_size < 2000 for path in tmp_path.iterdir())


def test_a_recorded_source_rotates_by_its_own_time(tmp_path, make_item):
    with jsonl(tmp_path / "a.jsonl", live=False, rotate_minutes=1) as sink:
        for index in range(4):
            sink.write(make_item(index, seconds=40.0 * index))
    assert lines_of(tmp_path) == [[0, 1], [2, 3]]


def test_a_second_run_goes_on_counting_and_overwrites_nothing(tmp_path, make_item):
    for _ in range(3):
        with jsonl(tmp_path / "a.jsonl", rotate_minutes=1) as sink:
            sink.write(make_item(0))
    assert [name[-12:-6] for name in names(tmp_path)] == ["000001", "000002", "000003"]


def test_a_clock_that_jumps_back_changes_no_order(tmp_path):
    segments = Segments(tmp_path / "cam.mkv", keep_bytes=25)
    years = (2026, 2031, 1999, 2026)
    for year in years:
        segments.next(datetime(year, 1, 2, tzinfo=timezone.utc)).write_bytes(b"x" * 10)
    assert [path.name[4:8] for path in segments.trim()] == ["2026", "2031"]
    assert {name[4:8] for name in names(tmp_path)} == {"1999", "2026"}
    # Nor does the time between frames, which is not the wall's.


def test_only_segments_of_its_own_are_removed_and_the_newest_never(tmp_path):
    segments = Segments(tmp_path / "cam.mkv", keep_bytes=1)
    others = ["cam.mkv", "cam-2-20260101T000000Z-000001.mkv", "cam-20260101T000000Z-000001.jsonl",
              "cam-holiday.mkv", "xcam-20260101T000000Z-000001.mkv"]  # fmt: skip
    for name in others:
        (tmp_path / name).write_bytes(b"x" * 100)
    for _ in range(3):
        segments.next().write_bytes(b"x" * 100)
    assert len(segments.trim()) == 2
    kept = [name for name in names(tmp_path) if name not in others]
    assert [name[-10:] for name in kept] == ["000003.mkv"]
    assert set(others) <= set(names(tmp_path))


def test_the_oldest_segments_go_while_it_runs(tmp_path, make_item):
    with jsonl(tmp_path / "a.jsonl", rotate_minutes=1, keep_gb=3e-6) as sink:
        for index in range(60):
            sink.write(make_item(index, seconds=20.0 * index))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3000
    assert lines_of(tmp_path)[-1][-1] == 59


class Disk:
    """A disk whose free bytes a test sets, and a clock that goes when it says."""

    def __init__(self) -> None:
        self.free, self.now = 10e9, 0.0

    def guard(self, folder: Path, least: float) -> DiskGuard:
        def free(_: Path) -> int:
            return int(self.free)

        def clock() -> float:
            self.now += 1.0
            return self.now

        return DiskGuard(folder, least, free, clock)


def test_recording_pauses_before_the_disk_is_full_and_resumes(tmp_path, make_item, caplog):
    disk = Disk()
    sink = jsonl(tmp_path / "a.jsonl", guard=disk.guard(tmp_path, 1e9))
    lost, reasons, named = [], set(), []
    from foldcam.runtime.system.logs import log

    log.propagate = True
    with sink:
        for index, free in enumerate([5e9, 2e9, 0.9e9, 0.8e9, 1.05e9, 1.2e9, 3e9]):
            disk.free = free
            try:
                sink.write(make_item(index))
            except NotWritten as reason:
                lost.append(index)
                reasons.add(str(reason))
                # What there is has its name already: nothing is lost if the power goes.
                named.append((tmp_path / "a.jsonl").exists())
    assert lost == [2, 3, 4]
    assert reasons == {f"less than 1 GB are free on the disk of {tmp_path}"}
    assert named == [True] * 3
    assert lines_of(tmp_path) == [[5, 6], [0, 1]]
    said = [record.message for record in caplog.records]
    assert [text.split(":")[0] for text in said] == ["recording pauses", "recording resumes"]


def test_the_guard_looks_once_a_second_and_survives_a_disk_that_is_gone(tmp_path):
    asked, now = [], [0.0]

    def free(folder: Path) -> int:
        asked.append(folder)
        if len(asked) > 1:
            raise OSError
        return 0

    guard = DiskGuard(tmp_path / "not" / "yet", 1.0, free, lambda: now[0])
    assert [guard.has_room() for _ in range(5)] == [False] * 5
    assert asked == [tmp_path]
    now[0] = 2.0
    assert guard.has_room() is False
    assert DiskGuard(tmp_path, 0).has_room()


def test_a_failed_write_of_a_live_source_keeps_the_whole_lines(tmp_path, make_item, monkeypatch):
    from foldcam.runtime.sinks import jsonl as module

    sink = jsonl(tmp_path / "a.jsonl")
    written = module._write_all

    def failing(stream, data):
        written(stream, data[:7])
        raise OSError(28, "No space left on device")

    with sink:
        sink.write(make_item(0))
        with monkeypatch.context() as patch:
            patch.setattr(module, "_write_all", failing)
            with pytest.raises(FoldcamError, match="No space left"):
                sink.write(make_item(1))
        sink.reopen()
        sink.write(make_item(2))
    assert lines_of(tmp_path) == [[2], [0]]
    assert "a.jsonl" in names(tmp_path)


def test_a_failed_run_keeps_what_a_live_source_gave_and_nothing_of_a_recorded_one(
    tmp_path, make_item
):
    for live in (True, False):
        folder = tmp_path / str(live)
        sink = jsonl(folder / "a.jsonl", live, rotate_minutes=1)
        sink.write(make_item(0))
        sink.__exit__(RuntimeError, RuntimeError(), None)
        assert len(names(folder)) == live


def outputs(make_source, folder: Path, live: bool = True, several: int = 1, **options):
    sources = [make_source(live=live) for _ in range(several)]
    recording = RecordingOptions(**options)
    return open_outputs(sources, OutputOptions(save=str(folder)), recording)


def test_rotated_videos_play_and_have_every_frame(tmp_path, make_item, make_source):
    (sink,) = outputs(make_source, tmp_path, live=False, rotate_minutes=1 / 60)
    with sink:
        for index in range(50):
            sink.write(make_item(index, seconds=index / 20))
    counts = []
    for path in sorted(tmp_path.iterdir()):
        assert path.suffix == ".mkv"
        with open_source(file=str(path)) as film:
            counts.append(len(list(film)))
    assert counts == [20, 20, 10]


def test_two_cameras_have_a_video_each(tmp_path, make_item, make_source):
    sinks = outputs(make_source, tmp_path, several=2)
    assert [sink.name for sink in sinks] == ["video 0", "video 1"]
    for sink in sinks:
        with sink:
            for index in range(6):
                sink.write(make_item(index, seconds=index / 20, stream=index % 2))
    assert names(tmp_path) == ["cam-0.mp4", "cam-1.mp4"]
    with pytest.raises(FoldcamError, match="names one video, and there are 2 sources"):
        outputs(make_source, tmp_path / "one.mp4", several=2)


def test_a_pause_or_a_clock_that_goes_back_does_not_fill_a_video(tmp_path, make_item, make_source):
    (sink,) = outputs(make_source, tmp_path / "v.avi")
    times = [0.0, 0.05, 0.1, 3600.0, 3600.05, 3600.1, 5.0, 5.05, 5.1]
    with sink:
        for index, seconds in enumerate(times):
            sink.write(make_item(index, seconds=seconds))
    with open_source(file=str(tmp_path / "v.avi")) as film:
        assert len(list(film)) == len(times)


def test_a_short_outage_is_filled_so_that_the_film_keeps_time(tmp_path, make_item, make_source):
    (sink,) = outputs(make_source, tmp_path / "v.avi")
    with sink:
        for index, seconds in enumerate([0.0, 0.05, 2.0]):
            sink.write(make_item(index, seconds=seconds))
    with open_source(file=str(tmp_path / "v.avi")) as film:
        assert len(list(film)) == 41


KILLED = """
import json, sys, time
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("fake", {conftest!r})
fake = importlib.util.module_from_spec(spec); spec.loader.exec_module(fake)
import numpy as np
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions
from foldcam.runtime.sinks import open_outputs
folder = Path(sys.argv[1])
sinks = open_outputs(
    [fake.source_of()], OutputOptions(save=str(folder), jsonl=str(folder / "x.jsonl")),
    RecordingOptions(rotate_minutes=10),
)
random = np.random.default_rng(0)
for sink in sinks:
    sink.__enter__()
for index in range(100_000):
    image = random.integers(0, 256, (240, 320, 3), np.uint8)
    for sink in sinks:
        sink.write(fake.seen_of(index, seconds=index / 20, image=image))
    if index == 300:
        print("ready", flush=True)
"""


def test_what_a_killed_run_was_writing_is_recovered_by_the_next(
    tmp_path, make_item, make_source, child_environment
):
    out = tmp_path / "out"
    code = KILLED.format(conftest=str(Path(__file__).with_name("conftest.py")))
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], env=child_environment(), stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    # A living writer's files are left alone.
    options = OutputOptions(save=str(out), jsonl=str(out / "x.jsonl"))
    open_outputs([make_source()], options, RecordingOptions(rotate_minutes=10))
    # Lines may be read while they are written; a film has its name when it can be played.
    assert [".partial" in name for name in names(out)] == [True, False]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    open_outputs([make_source()], options, RecordingOptions(rotate_minutes=10))
    found = names(out)
    assert [name.partition("-")[0] for name in found] == ["cam", "x"]
    with open_source(file=str(out / found[0])) as film:
        assert len(list(film)) > 20
    lines = [json.loads(line)["frame"] for line in (out / found[1]).read_text().splitlines()]
    assert lines == list(range(len(lines)))
    assert len(lines) > 200


def test_what_cannot_be_read_of_a_killed_run_is_removed(tmp_path, make_source):
    broken = tmp_path / ".cam-20260101T000000Z-000001.abc.partial.mkv"
    broken.write_bytes(b"no film")
    young = tmp_path / ".cam-20260101T000000Z-000002.abc.partial.mkv"
    young.touch()
    foreign = tmp_path / ".notes.abc.partial.mkv"
    foreign.write_bytes(b"mine")
    outputs(make_source, tmp_path, rotate_minutes=1)
    assert names(tmp_path) == sorted([young.name, foreign.name])
    os.utime(young, (time.time() - 100, time.time() - 100))
    outputs(make_source, tmp_path, rotate_minutes=1)
    assert names(tmp_path) == [foreign.name]


def test_lines_cut_in_the_middle_are_repaired(tmp_path):
    path = tmp_path / "x"
    for content, kept in ((b"a\nb\nhal", b"a\nb\n"), (b"a\n", b"a\n"), (b"x" * 200_000, None),
                          (b"a\n" + b"x" * 200_000, b"a\n"), (b"", None)):  # fmt: skip
        path.write_bytes(content)
        assert repair_jsonl(path) is (kept is not None)
        assert kept is None or path.read_bytes() == kept


def test_pictures_every_so_many_frames_of_two_sources(tmp_path, make_item, make_source):
    sources = [make_source(live=False, stem="a"), make_source(stem="b")]
    (sink,) = open_outputs(
        sources, OutputOptions(images=str(tmp_path), images_every=3), RecordingOptions()
    )
    with sink:
        for index in range(7):
            for stream in (0, 1):
                sink.write(make_item(index, seconds=index, stream=stream))
    found = names(tmp_path)
    assert found[:3] == ["a-000000000.jpg", "a-000000003.jpg", "a-000000006.jpg"]
    assert [name[-10:] for name in found[3:]] == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert cv2.imread(str(tmp_path / found[0])).shape == (24, 32, 3)


def test_pictures_of_a_live_source_are_kept_in_bounds(tmp_path, make_item, make_source):
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    (sink,) = open_outputs(
        [make_source()], OutputOptions(images=str(tmp_path)), RecordingOptions(keep_gb=20e-6)
    )
    with sink:
        for index in range(150):
            sink.write(make_item(index, image=noise))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
    assert names(tmp_path)[-1].endswith("-000150.jpg")


def test_two_live_runs_in_one_folder_keep_every_picture_and_film(tmp_path, make_item, make_source):
    """Names never collide: each takes the next one that is free."""
    options = OutputOptions(save=str(tmp_path / "cam.mkv"), images=str(tmp_path / "pictures"))
    runs = [open_outputs([make_source()], options) for _ in range(2)]
    for sinks in runs:
        for sink in sinks:
            sink.__enter__()
    for index in range(10):
        for sinks in runs:
            for sink in sinks:
                sink.write(make_item(index, seconds=index / 20))
    for sinks in runs:
        for sink in sinks:
            sink.__exit__(None, None, None)
    assert len(names(tmp_path / "pictures")) == 20
    films = [path for path in tmp_path.iterdir() if path.suffix == ".mkv"]
    assert len(films) == 2
    for film in films:
        with open_source(file=str(film)) as source:
            assert len(list(source)) == 10


def test_a_live_recording_replaces_none_of_an_earlier_run(tmp_path, make_item, make_source):
    options = OutputOptions(save=str(tmp_path / "cam.mkv"))
    written = []
    for _ in range(3):
        (sink,) = open_outputs([make_source()], options)
        with sink:
            sink.write(make_item(0))
        written.append(sink.output)
    assert len(names(tmp_path)) == 3
    assert written == [str(tmp_path / "cam.mkv"), *[str(tmp_path / "cam-*.mkv")] * 2]
