"""`foldcam bench gate --device tensorrt` from end to end, on the pretended TensorRT.

Engines are computed by ONNX Runtime there, so that answers are right; what is asserted of times is
only which of them are measured and how they are judged.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foldcam.runtime.contract.onnx_file import read_contract

Gate = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ["--repeats", "6", "--rounds", "5"]
# Ratios of milliseconds on a busy machine: what is tested is not the machine.
TOLERANT = [*QUICK, "--margin", "50", "--absolute-margin", "50"]


def _updated(model: Path, folder: Path, device: str, environment: dict[str, str] | None) -> Path:
    """The baseline that the command writes in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "foldcam", "bench", "gate", "--model", str(model),
         "--baseline", "mine.json", *QUICK, "--device", device, "--update"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "mine.json"


@pytest.fixture(scope="module")
def baseline(
    model: Path,
    pretended_in: Callable[[Path], dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A baseline of the pretended TensorRT, for tests that begin with one."""
    folder = tmp_path_factory.mktemp("baseline")
    return _updated(model, folder, "tensorrt", pretended_in(folder))


@pytest.fixture(scope="module")
def baseline_of_the_processor(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _updated(model, tmp_path_factory.mktemp("processor"), "cpu", None)


@pytest.fixture
def gate(pretended_device: dict[str, str], tmp_path: Path) -> Gate:
    """`gate("--update", PRETENDED_SMI="...")`: the command on the pretended device."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "foldcam", "bench", "gate", *arguments],
            cwd=tmp_path,
            env={**pretended_device, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def advised(gate: Gate) -> Callable[[str], None]:
    """Runs every command that a message puts between backticks, which must succeed."""

    def follow(message: str) -> None:
        commands = re.findall(r"`foldcam bench gate ([^`]+)`", message)
        assert commands, message
        for command in commands:
            done = gate(*shlex.split(command), *QUICK)
            assert done.returncode == 0, done.stderr

    return follow


@pytest.mark.parametrize("device", ["tensorrt", "rtx"])
def test_the_advice_of_a_missing_baseline_leads_to_a_comparison(
    device: str, model: Path, gate: Gate, advised: Callable[[str], None], tmp_path: Path
) -> None:
    flags = ["--device", device, "--model", str(model), "--baseline", "mine.json"]
    done = gate(*flags, *TOLERANT)
    assert done.returncode == 1
    assert f"({device} on Pretended GPU, tensorrt" in done.stderr
    # Of its commands the first writes the baseline.
    message = done.stderr.partition(", or compare")[0]
    advised(message)
    stored = json.loads((tmp_path / "mine.json").read_text())
    assert stored["device"] == device
    assert len(stored["figures"]["folded_over_plain_wall"]) == 12
    done = gate(*flags, *TOLERANT, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["passed"]
    # No processor time of a GPU's work, but every other figure.
    names = [row["name"] for row in document["judged"]]
    assert names == [
        *("folded_over_plain_wall", "tail_over_plain_tail"),
        *("plain_milliseconds", "folded_milliseconds"),
    ]


def test_without_a_baseline_the_graphs_of_the_base_commit_are_timed_along(
    model: Path, gate: Gate, tmp_path: Path
) -> None:
    missing = gate("--device", "tensorrt", "--graphs", "head", "--base", "head", *TOLERANT)
    assert missing.returncode == 1
    (command,) = re.findall(r"`foldcam bench gate ([^`]+)`", missing.stderr)
    assert gate(*shlex.split(command), "--model", str(model)).returncode == 0
    done = gate("--device", "tensorrt", "--graphs", "head", "--base", "head", *TOLERANT, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["baseline"] == "the base commit, measured along"
    assert len(document["base_figures"]["folded_over_plain_wall"]) == 6
    outcomes = {row["name"]: row["outcome"] for row in document["judged"]}
    assert outcomes == {
        "folded_over_plain_wall": "pass",
        "folded_over_base": "pass",
        "tail_over_plain_tail": "pass",
        # Medians of different rounds, which the ratio to the base makes needless.
        "plain_milliseconds": "not compared",
        "folded_milliseconds": "not compared",
    }


def test_a_slower_engine_fails_and_the_history_keeps_the_run(
    model: Path, baseline: Path, gate: Gate, tmp_path: Path
) -> None:
    flags = ["--device", "tensorrt", "--model", str(model), "--baseline", "mine.json", *QUICK]
    stored = json.loads(baseline.read_text())
    stored["figures"]["folded_over_plain_wall"] = [0.01] * 12
    (tmp_path / "mine.json").write_text(json.dumps(stored))
    history = ["--history", "history/gate.jsonl", "--plot", "gate.png"]
    for _ in range(2):
        done = gate(*flags, *history)
        assert done.returncode == 3, done.stderr
        assert "Slower: folded / plain, wall time" in done.stdout
    lines = (tmp_path / "history/gate.jsonl").read_text().splitlines()
    assert len(lines) == 2
    run = json.loads(lines[0])
    assert run["passed"] is False
    assert run["class"] == "tensorrt on Pretended GPU, tensorrt 10.3.0, MAXN"
    assert set(run["ratios"]) == {"folded_over_plain_wall"}
    assert (tmp_path / "gate.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "history/gate.jsonl").write_text(lines[0] + "\nnothing\n")
    done = gate(*flags, *history)
    assert done.returncode == 1
    assert "gate.jsonl, line 2, is no run of the gate" in done.stderr


@pytest.mark.parametrize(
    ("flags", "smi", "said", "instead"),
    [
        ([], "1980, 700, 0x20", "the device was throttled by heat", ["--clock", "any"]),
        (["--clock", "1500"], "1980, 700, 0x0", "its target is 1500 MHz", ["--clock", "1980"]),
    ],
    ids=["throttled", "off target"],
)
def test_clocks_that_are_not_at_their_target_end_the_gate(
    flags: list[str],
    smi: str,
    said: str,
    instead: list[str],
    model: Path,
    gate: Gate,
    tmp_path: Path,
) -> None:
    measure = ["--device", "tensorrt", "--model", str(model), "--baseline", "mine.json", *QUICK]
    measure.append("--update")
    settings = {"PRETENDED_SMI": smi}
    done = gate(*measure, *flags, **settings)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    # What was measured under such clocks is not kept.
    assert not (tmp_path / "mine.json").exists()
    assert "(repeat 1 of 12)" in done.stderr
    # As the message says: another clock, or none.
    assert "--clock any" in done.stderr
    assert gate(*measure, *instead, **settings).returncode == 0


def test_what_is_measured_under_steady_clocks_is_kept(baseline: Path) -> None:
    assert baseline.exists()


def test_the_gate_of_engines_proves_itself(model: Path, gate: Gate, tmp_path: Path) -> None:
    """With a slowdown that a busy machine does not hide."""
    counts = ["--clean", "1", "--slowed", "1", "--margin", "0.5"]
    done = gate("--device", "tensorrt", "--model", str(model), "--prove", *QUICK, *counts, "--json")
    # A quiet machine calibrates; on a busy one that is refused in one sentence.
    assert done.returncode in (0, 1, 3), done.stderr
    if done.returncode == 1:
        assert "No chain of products costs 5%" in done.stderr
    else:
        document: dict[str, Any] = json.loads(done.stdout)
        assert document["device"] == "tensorrt"
        assert {run["kind"] for run in document["runs"]} == {"clean", "slowed"}
    assert (tmp_path / "results/gate/folded/slowed.engine").is_file()


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_not_there_is_said_and_the_advice_works(
    device: str, model: Path, baseline_of_the_processor: Path, tmp_path: Path
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "foldcam", "bench", "gate", "--model", str(model),
             "--baseline", "mine.json", *QUICK, *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = run("--device", device, "--update")
    if done.returncode == 0:
        pytest.skip("this machine has the device")
    assert done.returncode == 1
    if device == "cuda":
        assert "--device cpu" in done.stderr
    else:
        assert "is not installed" in done.stderr or "--device cpu" in done.stderr
    assert baseline_of_the_processor.exists()


@pytest.mark.parametrize("device", ["tensorrt", "rtx"])
def test_an_engine_that_answers_wrongly_is_not_gated(
    device: str, model: Path, gate: Gate, tmp_path: Path
) -> None:
    assert read_contract(model).canary is not None
    measure = ["--device", device, "--model", str(model), "--baseline", "mine.json", *QUICK]
    done = gate(*measure, "--update", PRETENDED_WRONG="1")
    assert done.returncode == 1
    assert "wrong" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "mine.json").exists()
