"""The checks of reliability themselves: they pass on what is well and fail on what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foldcam.benchmarks.studies.reliability import __main__ as program
from foldcam.benchmarks.studies.reliability import cameras, cuts, rtsp, soak
from foldcam.benchmarks.studies.reliability.progress_lines import ProgressLines
from foldcam.benchmarks.studies.reliability.soak import footprint, slope
from foldcam.benchmarks.studies.reliability.stream import Stream, listening
from foldcam.runtime.system.errors import FoldcamError

ROOT = Path(__file__).parents[3]


def quiet(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture(autouse=True)
def with_the_small_model(monkeypatch, small_model):
    for module in (cameras, cuts, rtsp, soak):
        monkeypatch.setattr(module, "demo_model", lambda folder, size: small_model)


def test_memory_that_grows_is_told_from_noise():
    generator = np.random.default_rng(0)
    steps = np.arange(400.0)
    noise = generator.normal(0, 5e3, 400)
    flat, rising = slope(steps, noise), slope(steps, noise + 100 * steps)
    assert not flat.distinguishable
    assert flat.low < 0 < flat.high
    assert rising.distinguishable
    assert rising.low < 100 < rising.high


def test_a_level_that_wanders_gives_no_false_certainty():
    """A line through a random walk nearly always looks certain; its increments do not."""
    generator = np.random.default_rng(3)
    found = [
        slope(np.arange(400.0), np.cumsum(generator.normal(0, 1, 400))).distinguishable
        for _ in range(200)
    ]
    # Of an interval of 95 % one end is missed in 2.5 % of cases.
    assert sum(found) <= 12


def test_a_page_now_and_then_is_no_growth_and_a_page_in_most_blocks_is():
    page, steps = 4096.0, np.arange(400.0)
    now_and_then = page * np.searchsorted([90, 170, 330], steps)
    often = page * np.searchsorted(np.arange(5, 400, 25), steps)
    assert not slope(steps, now_and_then).distinguishable
    assert slope(steps, often).distinguishable


def test_a_slope_needs_samples():
    with pytest.raises(ValueError, match="three samples"):
        slope([0, 1], [0, 1])


def test_a_footprint_counts_what_is_open(tmp_path):
    before = footprint()
    with (tmp_path / "a").open("w"):
        assert footprint().descriptors == before.descriptors + 1
    assert before.resident > 2**20
    assert before.threads >= 1


def test_the_soak_finds_every_frame_once(monkeypatch, tmp_path):
    monkeypatch.setattr(soak, "FRAMES", {False: 300})
    document = soak.check(False, tmp_path, quiet)
    assert (document["frames"], document["lost"], document["out_of_order"]) == (300, 0, 0)
    assert dict(soak.rows(document))["lost"] == "0"


def test_the_soak_notices_a_frame_that_is_missing(monkeypatch, tmp_path):
    from foldcam.runtime.sources import open_source
    from foldcam.runtime.sources.options import SourceOptions

    monkeypatch.setattr(soak, "FRAMES", {False: 60})
    monkeypatch.setattr(soak, "open_source", lambda uri: open_source(uri, SourceOptions(every=2)))
    document = soak.check(False, tmp_path, quiet)
    assert not document["passed"]
    assert (document["lost"], document["out_of_order"]) == (30, 29)


def test_a_source_that_is_cut_comes_back(monkeypatch, tmp_path):
    monkeypatch.setattr(cuts, "CUTS", {False: 2})
    document = cuts.check(False, tmp_path, quiet)
    assert document["passed"], document
    assert document["recoveries"] == 2
    assert document["reconnects"] >= 2
    assert (document["flat_frames"], document["captures_left_behind"]) == (0, 0)
    assert ("cuts of a live source, recoveries", "2, 2") in cuts.rows(document)


def test_a_run_that_does_not_reconnect_fails_the_check(monkeypatch, tmp_path):
    from dataclasses import replace

    monkeypatch.setattr(cuts, "CUTS", {False: 2})
    monkeypatch.setattr(cuts, "LONGEST_SECONDS", 1.0)
    monkeypatch.setattr(cuts, "STALLS", 0.0)
    monkeypatch.setattr(cuts, "FLOW", replace(cuts.FLOW, reconnect=False, stall_seconds=20.0))
    document = cuts.check(False, tmp_path, quiet)
    assert not document["passed"]
    assert document["recoveries"] == 0


def test_two_cameras(monkeypatch, tmp_path):
    monkeypatch.setattr(cameras, "SECONDS", {False: 0.5})
    # On a machine that does much else, pace is not what this test is about.
    monkeypatch.setattr(cameras, "KEPT_PACE", 0.2)
    document = cameras.check(False, tmp_path, quiet)
    assert document["passed"], document
    assert (document["mixed"], document["out_of_order"]) == (0, 0)
    assert document["share_of_passes_with_both"] > 0
    assert dict(cameras.rows(document))["out of order"] == "0"


def test_a_real_rtsp_server_is_survived(monkeypatch, tmp_path):
    if reason := rtsp.why_no_server():
        pytest.skip(reason)
    # After one restart nothing is waited for ever longer.
    monkeypatch.setattr(rtsp, "FRAMES", 25)
    document = rtsp.check(False, tmp_path, quiet)
    assert document["passed"], document
    assert document["credentials_shown"] is False
    assert dict(rtsp.rows(document))["the password in any output"] == "never"


def test_without_a_server_the_check_is_skipped_with_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(rtsp, "PYTHON", "/nowhere/python3")
    document = rtsp.check(False, tmp_path, quiet)
    assert document == {"passed": True, "skipped": "there is no /nowhere/python3"}
    assert program.text_of("rtsp", rtsp, document) == "rtsp: skipped: there is no /nowhere/python3"


def test_a_stream_listens_until_it_is_cut():
    with Stream("testsrc=size=64x48:rate=10") as stream:
        stream.restore()
        assert listening(stream.port)
        stream.cut()
        assert not listening(stream.port)


def test_ffmpeg_that_refuses_is_named():
    with Stream("nosuchsource") as stream, pytest.raises(FoldcamError, match="does not listen"):
        stream.restore()


def test_the_program_knows_its_checks_and_refuses_others():
    assert {"soak", "cuts", "cameras", "rtsp"} <= set(program.available())
    command = [sys.executable, "-m", "foldcam.benchmarks.studies.reliability"]
    done = subprocess.run(
        [*command, "--only", "dance"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 2
    assert "no check is called dance" in done.stderr


def test_a_failed_check_ends_with_status_3(monkeypatch, tmp_path, capsys):
    class Failing:
        @staticmethod
        def check(full, folder, tell):
            return {"passed": False, "figure": 7}

        @staticmethod
        def rows(document):
            return [("figure", str(document["figure"]))]

    monkeypatch.setattr(program, "available", lambda: {"soak": Failing})
    monkeypatch.setattr(program, "RESULTS", tmp_path / "stored")
    monkeypatch.setattr(sys, "argv", ["reliability", "--store", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 3
    assert "soak: FAILED" in capsys.readouterr().out
    assert json.loads((tmp_path / "stored" / "soak.json").read_text())["figure"] == 7


def test_progress_is_told_seldom_and_at_the_end(capsys):
    told = ProgressLines(pause=60.0)
    for number in range(1001):
        told("soak: frames", number, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "soak: frames: 0 of 1,000",
        "soak: frames: 1,000 of 1,000",
    ]
