"""`runtime bench` on tiny folded models, and its loops on a pretended backend."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldcam.runtime.cli import runtime as cli
from foldcam.runtime.measurement.bench import run as bench_run
from foldcam.runtime.measurement.bench.loops import Loop, synthetic_frames
from foldcam.runtime.measurement.bench.power import Rails
from foldcam.runtime.measurement.bench.report import text
from foldcam.runtime.measurement.bench.run import BenchOptions, Target, run_bench
from foldcam.runtime.system.command import run_app
from foldcam.runtime.system.errors import FoldcamError

QUICK = BenchOptions(passes=12, warm_up=2, rate=200.0, frame=(32, 24), threads=1)


class OnGpu:
    """A backend that counts its runs and says that it is a GPU."""

    name, device = "pretended 1.0", "cuda (pretended)"

    def __init__(self, contract: Any, seconds: float = 0.0) -> None:
        self.contract = contract
        self.seconds = seconds
        self.runs: list[int] = []
        self.resident: list[int] = []

    def run(self, images: Any) -> dict[str, Any]:
        self.runs.append(len(images))
        time.sleep(self.seconds)
        rows = len(images)
        return {
            "embedding": np.zeros((rows, 3), np.float32),
            "heatmap": np.zeros((rows, 1, 2, 2), np.float32),
            "neighbor": np.zeros((rows, 2), np.int32),
            "similarity": np.zeros((rows, 2), np.float32),
        }

    def run_resident(self, rows: int) -> None:
        self.resident.append(rows)

    def close(self) -> None:
        pass


@pytest.fixture
def contract(tiny_model: Path) -> Any:
    from foldcam.runtime.contract.onnx_file import read_contract

    return read_contract(tiny_model)


def test_every_batch_and_mode_has_its_series(tiny_model: Path) -> None:
    told: list[tuple[str, int, int]] = []
    options = BenchOptions(**{**vars(QUICK), "batches": (1, 3)})
    document = run_bench([tiny_model], options, lambda *step: told.append(step))
    runs = document["runs"]
    assert [(run["batch"], run["mode"]) for run in runs] == [
        (1, "back_to_back"), (1, "paced"), (3, "back_to_back"), (3, "paced"),
    ]  # fmt: skip
    for run in runs:
        assert len(run["host"]["samples"]) == len(run["inference"]["samples"]) == 12
        assert all(
            host >= inner
            for host, inner in zip(run["host"]["samples"], run["inference"]["samples"], strict=True)
        )
        # On a CPU nothing is copied anywhere.
        assert "device" not in run
        assert run["precision"] == "fp32"
        assert ("response" in run) == (run["mode"] == "paced")
        assert run["stable"] == (not run["reasons"])
    assert told[-1][1:] == (12, 12)
    assert document["machine"]["processors"] >= 1
    assert "frames of" not in text(document)
    assert text(document).count(tiny_model.name) >= 8


def test_on_a_gpu_the_network_is_timed_without_its_copies_as_well(contract: Any) -> None:
    backend = OnGpu(contract)
    timings = Loop(backend, synthetic_frames(16, 16), 2).back_to_back(5, 1)
    assert backend.runs == [2] * 6
    assert backend.resident == [2] * 6
    assert len(timings.device) == len(timings.host) == 5


def test_at_a_pace_passes_wait_for_their_frames(contract: Any) -> None:
    backend = OnGpu(contract)
    start = time.perf_counter()
    timings = Loop(backend, synthetic_frames(16, 16), 1).paced(10, 0, rate=100.0)
    # The last frame is due nine periods after the first.
    assert time.perf_counter() - start >= 0.09
    assert len(timings.response) == 10
    assert backend.resident == []


def test_a_model_slower_than_the_pace_is_late_and_its_response_grows(contract: Any) -> None:
    timings = Loop(OnGpu(contract, 0.02), synthetic_frames(16, 16), 1).paced(12, 0, rate=200.0)
    assert timings.late > 0
    # Each pass takes four periods: the last waits for all before it, the run itself does not.
    assert timings.response[-1] > 2 * timings.host[-1]


def test_what_cannot_run_is_told_beside_what_can(tiny_model: Path) -> None:
    targets = (Target("onnxruntime", "cpu"), Target("onnxruntime", "cuda"))
    options = BenchOptions(**{**vars(QUICK), "targets": targets, "rate": 0.0})
    document = run_bench([tiny_model], options)
    good, bad = document["runs"]
    if "problem" not in bad:
        pytest.skip("there is CUDA here")
    assert good["runs_on"] == "cpu"
    assert "no CUDA" in bad["problem"]
    assert "not run: " in text(document)


def test_where_nothing_runs_the_first_problem_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(FoldcamError, match=r"missing\.onnx"):
        run_bench([tmp_path / "missing.onnx"], QUICK)


def test_energy_is_told_where_power_can_be_measured(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rails = Rails(lambda: {"VDD_IN": 6.0}, 0.001)
    monkeypatch.setattr(bench_run, "find_rails", lambda: rails)
    monkeypatch.setattr(bench_run, "_IDLE_SECONDS", 0.01)
    document = run_bench([tiny_model], BenchOptions(**{**vars(QUICK), "rate": 0.0}))
    (run,) = document["runs"]
    assert document["watts_idle"] == {"VDD_IN": 6.0}
    assert run["energy"]["watts"] == 6.0
    assert run["energy"]["millijoules_per_image"] > 0
    assert run["energy"]["millijoules_per_image_over_idle"] == 0.0


def test_the_process_is_bound_for_the_run_and_free_afterwards(tiny_model: Path) -> None:
    before = os.sched_getaffinity(0)
    seen: list[set[int]] = []
    options = BenchOptions(**{**vars(QUICK), "pin": (min(before),), "rate": 0.0})
    run_bench([tiny_model], options, lambda *_: seen.append(os.sched_getaffinity(0)))
    assert all(pinned == {min(before)} for pinned in seen)
    assert seen
    assert os.sched_getaffinity(0) == before
    with pytest.raises(FoldcamError, match=r"--pin 9999: this process may use the processors"):
        run_bench([tiny_model], BenchOptions(**{**vars(QUICK), "pin": (9999,)}))


def command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["runtime", "bench", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_app(cli.app, "runtime")
    return int(caught.value.code or 0)


def test_the_command_prints_one_document_and_writes_the_samples(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "timings.json"
    flags = f"--passes 5 --warm-up 1 --rate 0 --frame 16x16 --threads 1 --json --out {out}"
    assert command([str(tiny_model), *flags.split()], monkeypatch) == 0
    document = json.loads(capfd.readouterr().out)
    assert document == json.loads(out.read_text())
    assert len(document["runs"][0]["host"]["samples"]) == 5


@pytest.mark.parametrize(
    "flags",
    [
        "--batch 0", "--batch a", "--frame 16", "--frame 0x9", "--provider gpu",
        "--backend torch", "--backend auto", "--pin x",
    ],
)  # fmt: skip
def test_flags_of_another_form_are_wrong_usage(
    flags: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert command([str(tiny_model), *flags.split()], monkeypatch) == 2
    assert flags.split()[0] in capfd.readouterr().err
