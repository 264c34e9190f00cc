"""Files of lines that grow over any number of runs, and are never begun again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foldcam.runtime.sinks import open_outputs
from foldcam.runtime.sinks.growing import GrowingLines
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions
from foldcam.runtime.system.errors import FoldcamError


def line(number: int) -> bytes:
    return f'{{"source": "cam", "frame": {number}}}\n'.encode()


def grown(path: Path, *numbers: int) -> None:
    lines = GrowingLines(path, "source")
    for number in numbers:
        lines.append(line(number))
    lines.close()


def frames_in(path: Path) -> list[int]:
    return [json.loads(text)["frame"] for text in path.read_text().splitlines()]


def test_a_line_that_was_cut_swallows_no_other(tmp_path, caplog):
    path = tmp_path / "x.jsonl"
    grown(path, 1)
    path.write_bytes(path.read_bytes() + line(2)[:9])
    grown(path, 3)
    assert frames_in(path) == [1, 3]
    assert (tmp_path / "x.jsonl.cut").read_bytes() == line(2)[:9] + b"\n"
    assert "its last line was cut after 9 bytes" in caplog.text


def test_a_line_that_only_lacks_its_end_is_ended(tmp_path, caplog):
    path = tmp_path / "x.jsonl"
    path.write_bytes(line(1) + line(2)[:-1])
    grown(path, 3)
    assert frames_in(path) == [1, 2, 3]
    assert "the end of its last line was missing" in caplog.text
    assert [item.name for item in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_line_longer_than_what_is_read_at_once(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(line(1) + b'{"source": "' + b"x" * 200_000)
    grown(path, 3)
    assert frames_in(path) == [1, 3]


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    lines = GrowingLines(path, "source")
    lines.append(line(1))
    real = os.write
    room = [10, 0]

    def write(file: int, data: bytes) -> int:
        if not room:
            return real(file, data)
        if (left := room.pop(0)) == 0:
            raise OSError(28, "No space left on device")
        return real(file, bytes(data)[:left])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(FoldcamError, match="No space left"):
            lines.append(line(2))
    assert path.read_bytes() == line(1)
    lines.append(line(3))
    lines.close()
    assert frames_in(path) == [1, 3]


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"[model]\n", b'{\n  "source": 1\n}\n', b"\n"])
def test_a_file_of_another_kind_is_not_touched(tmp_path, content, make_source):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    for live in (True, False):
        with pytest.raises(FoldcamError, match="holds no"):
            open_outputs([make_source(live=live)], OutputOptions(jsonl=str(path)))
        assert path.read_bytes() == content
    assert [item.name for item in tmp_path.iterdir()] == ["x.jsonl"]


def test_events_are_not_written_through_a_link(tmp_path, make_source, contract_with):
    from foldcam.runtime.sinks.event_rules import EventRule

    (tmp_path / "events").mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    (tmp_path / "events" / "events.jsonl").symlink_to(victim)
    rules = [EventRule("any", similarity_below=1)]
    options = OutputOptions(events=str(tmp_path / "events"))
    with pytest.raises(FoldcamError, match="symbolic link"):
        open_outputs([make_source()], options, events=rules, contract=contract_with())
    assert victim.read_bytes() == b""


def test_two_runs_do_not_add_to_one_file(tmp_path, make_source, make_item):
    options = OutputOptions(jsonl=str(tmp_path / "x.jsonl"))
    (first,) = open_outputs([make_source()], options)
    with first:
        first.write(make_item(0))
        with pytest.raises(FoldcamError, match="Another run is writing"):
            open_outputs([make_source()], options)
    (second,) = open_outputs([make_source()], options)
    with second:
        second.write(make_item(1))
    assert frames_in(tmp_path / "x.jsonl") == [0, 1]


def test_a_file_that_was_rotated_away_is_begun_again_at_its_place(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = GrowingLines(path, "source", alone=True)
    lines.append(line(1))
    path.rename(tmp_path / "x.jsonl.1")
    lines.append(line(2))
    lines.close()
    assert (frames_in(tmp_path / "x.jsonl.1"), frames_in(path)) == ([1], [2])


def test_rotated_lines_can_be_read_while_they_are_written(tmp_path, make_source, make_item):
    options = OutputOptions(jsonl=str(tmp_path / "x.jsonl"))
    (sink,) = open_outputs([make_source()], options, RecordingOptions(rotate_minutes=1))
    with sink:
        sink.write(make_item(0))
        (segment,) = tmp_path.glob("x-*.jsonl")
        assert frames_in(segment) == [0]


def test_a_service_that_is_restarted_keeps_its_results(tiny_model, tmp_path, child_environment):
    """As docs/service.md has it: readable while it runs, and gone on with by the next start."""
    path = tmp_path / "seen.jsonl"
    counts = []
    for signal_number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        child = subprocess.Popen(
            [sys.executable, "-m", "foldcam.runtime", "run", str(tiny_model), "--source",
             "test://?size=64x48&rate=50", "--jsonl", path.name, "--quiet"],
            cwd=tmp_path, env=child_environment(),
        )  # fmt: skip
        known, deadline = counts[-1] if counts else 0, time.monotonic() + 60
        while not path.exists() or len(path.read_bytes().splitlines()) < known + 3:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal_number)
        assert child.wait(30) == (0 if signal_number == signal.SIGTERM else -signal.SIGKILL)
        counts.append(len(frames_in(path)))
    assert counts == sorted(set(counts))
    assert frames_in(path).count(0) == 3
