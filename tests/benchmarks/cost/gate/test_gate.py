"""The gate end to end on a small folded graph: it passes, it fails, it refuses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from foldcam.benchmarks.commands.cli import bench
from foldcam.benchmarks.cost.gate.cli import GateFiles
from foldcam.benchmarks.cost.gate.judging import (
    GateOptions,
    gate_document,
    judged,
    measure_subject,
    verdict,
)
from foldcam.benchmarks.cost.gate.machine import FOLDER, class_of, read_baseline, write_baseline
from foldcam.benchmarks.cost.gate.report import markdown, text
from foldcam.benchmarks.cost.gate.subject import Subject, subject_of, with_precisions
from foldcam.benchmarks.studies import gate as proof
from foldcam.benchmarks.studies.gate import planted, proof_table, proof_text
from foldcam.runtime.system.command import run_app
from foldcam.runtime.system.errors import FoldcamError

QUICK = GateOptions(repeats=6, rounds=8)


@pytest.fixture(scope="module")
def subject(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subject_of(model, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def measured(subject: Subject) -> dict[str, Any]:
    return measure_subject(subject, QUICK)


@pytest.fixture
def baseline(measured: dict[str, Any], tmp_path: Path) -> Path:
    """Of ten steady repeats: what is judged against it is set by each test."""
    path = tmp_path / "baseline.json"
    figures = {
        name: [float(np.median(values))] * 10 for name, values in measured["figures"].items()
    }
    write_baseline(path, {**measured, "figures": figures})
    return path


def with_figures(measured: dict[str, Any], path: Path, **factors: float) -> dict[str, Any]:
    """A run that repeats the baseline's figures, some of them times a factor."""
    stored = read_baseline(path).figures
    figures = {name: [values[0] * factors.get(name, 1.0)] * 6 for name, values in stored.items()}
    return {**measured, "figures": figures}


def test_every_figure_is_measured_once_in_each_repeat(measured: dict[str, Any]) -> None:
    figures = measured["figures"]
    assert {"folded_over_plain", "folded_over_plain_wall", "p99_over_p50"} < set(figures)
    assert all(len(values) == QUICK.repeats for values in figures.values())
    assert all(value > 0 for values in figures.values() for value in values)


def test_the_plain_graph_is_the_network_inside_the_folded_one(subject: Subject) -> None:
    image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    found = [
        onnxruntime.InferenceSession(str(path)).run(["embedding"], {"image": image})[0]
        for path in (subject.files["plain"], subject.files["folded"])
    ]
    np.testing.assert_allclose(*found, atol=1e-6)
    assert [value.name for value in onnx.load(subject.files["plain"]).graph.output] == ["embedding"]


def test_the_same_figures_pass(measured: dict[str, Any], baseline: Path) -> None:
    document = gate_document(with_figures(measured, baseline), read_baseline(baseline), QUICK)
    assert document["passed"]
    assert "Nothing is slower" in text(document)
    assert "passed" in markdown(document)


def test_a_ratio_that_rose_by_five_percent_fails_and_is_named(
    measured: dict[str, Any], baseline: Path
) -> None:
    slower = with_figures(measured, baseline, folded_over_plain=1.05)
    document = gate_document(slower, read_baseline(baseline), QUICK)
    assert not document["passed"]
    assert "Slower: folded / plain, processor time +5.0 %" in text(document)
    assert "| SLOWER | folded / plain, processor time |" in markdown(document)


@pytest.mark.parametrize("name", ["tail_over_plain_tail", "folded_milliseconds"])
def test_tails_and_milliseconds_fail_as_well(
    name: str, measured: dict[str, Any], baseline: Path
) -> None:
    rows = judged(with_figures(measured, baseline, **{name: 1.7}), read_baseline(baseline), QUICK)
    assert [row.name for row in rows if row.outcome == "fail"] == [name]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"machine": {"processor": "another"}}, "cpu on another, onnxruntime"),
        ({"versions": {"onnxruntime": "9.9"}}, "onnxruntime 9.9"),
        ({"device": "tensorrt", "versions": {"tensorrt": "10.3"}}, "tensorrt 10.3"),
    ],
)
def test_a_baseline_of_another_class_of_machines_is_refused(
    change: dict[str, Any], named: str, measured: dict[str, Any], baseline: Path
) -> None:
    with pytest.raises(FoldcamError, match=named):
        judged({**measured, **change}, read_baseline(baseline), QUICK)


def test_milliseconds_under_another_governor_are_not_compared(
    measured: dict[str, Any], baseline: Path
) -> None:
    slower = with_figures(measured, baseline, plain_milliseconds=9.0, folded_milliseconds=9.0)
    machine = {**measured["machine"], "governor": "powersave"}
    rows = judged({**slower, "machine": machine}, read_baseline(baseline), QUICK)
    assert verdict(rows)
    absolute = [row for row in rows if row.name.endswith("milliseconds")]
    assert all("the governor is powersave" in row.reason for row in absolute)
    assert all(row.outcome == "not compared" for row in absolute)
    # The ratios are compared all the same.
    assert sum(row.outcome == "pass" for row in rows) == 3


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"processor": "AMD EPYC"}, "cpu-amd-epyc-onnxruntime-1.32.0.json"),
        (
            {"processor": "Intel(R) Core(TM) i7 CPU @ 3.0GHz"},
            "cpu-intel-core-i7-onnxruntime-1.32.0.json",
        ),
    ],
)
def test_a_class_names_the_file_of_its_baseline(facts: dict[str, Any], name: str) -> None:
    assert class_of("cpu", facts, {"onnxruntime": "1.32.0"}).file_name == name


def test_the_baseline_of_a_users_model_lies_beside_it(tmp_path: Path) -> None:
    nowhere = GateFiles(*[None] * 6, tmp_path, None, None, None)
    machine = class_of("cpu", {"processor": "P"}, {"onnxruntime": "1.32.0"})
    assert nowhere.baseline_of(machine) == FOLDER / "cpu-p-onnxruntime-1.32.0.json"
    assert list(FOLDER.glob("*.json"))
    mine = replace(nowhere, model=tmp_path / "birds.onnx")
    assert mine.baseline_of(machine) == tmp_path / "birds.cpu-p-onnxruntime-1.32.0.json"
    named = replace(mine, baseline=Path("named.json"))
    assert named.baseline_of(machine) == Path("named.json")


def test_power_mode_and_power_limit_belong_to_the_class_of_a_gpu() -> None:
    facts = {"gpu": "Orin", "l4t": "36.4.3", "board": "Jetson Orin Nano", "power_mode": "15W"}
    orin = class_of("tensorrt", facts, {"tensorrt": "10.3.0"})
    assert orin.title == "tensorrt on Jetson Orin Nano, tensorrt 10.3.0, 15W"
    desktop = class_of(
        "cuda", {"gpu": "NVIDIA RTX 4090", "power_limit_watts": 450.0}, {"onnxruntime": "1.31.1"}
    )
    assert desktop.file_name == "cuda-nvidia-rtx-4090-onnxruntime-1.31.1-450-w.json"


def test_milliseconds_of_a_machine_that_is_slower_itself_are_not_compared(
    measured: dict[str, Any], baseline: Path
) -> None:
    slower = with_figures(
        measured, baseline, folded_milliseconds=1.3, probe_product_milliseconds=1.3
    )
    rows = judged(slower, read_baseline(baseline), QUICK)
    assert verdict(rows)
    assert any("runs at 0.77 of its speed then (a product)" in row.reason for row in rows)


def test_int8_is_compared_with_fp16_where_both_are_there(
    subject: Subject, model: Path, tmp_path: Path
) -> None:
    both = with_precisions(subject, model, model)
    found = measure_subject(both, QUICK)
    # The same file twice.
    assert np.median(found["figures"]["int8_over_fp16"]) == pytest.approx(1, abs=0.5)
    path = tmp_path / "baseline.json"
    write_baseline(path, found)
    rows = judged(found, read_baseline(path), QUICK)
    assert [row.name for row in rows].count("int8_over_fp16") == 1
    with pytest.raises(FoldcamError, match="both --int8 and --fp16"):
        with_precisions(subject, model, None)


def test_a_baseline_of_another_model_is_refused(measured: dict[str, Any], baseline: Path) -> None:
    with pytest.raises(FoldcamError, match=r"and not of 'another'"):
        judged({**measured, "subject": "another"}, read_baseline(baseline), QUICK)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 2}'])
def test_a_file_that_is_no_baseline_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(content)
    with pytest.raises(FoldcamError, match=r"baseline\.json"):
        read_baseline(path)


def test_a_planted_graph_gives_the_same_answers_and_computes_more(subject: Subject) -> None:
    folded = onnx.load(subject.files["folded"])
    slow = planted(folded, 7)
    onnx.checker.check_model(slow)
    image = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    sessions = [onnxruntime.InferenceSession(m.SerializeToString()) for m in (folded, slow)]
    ours, theirs = (session.run(None, {"image": image}) for session in sessions)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    # What is computed reaches an output, or it would be removed as dead.
    extracted = onnx.utils.Extractor(slow).extract_model(["image"], ["similarity"])
    kinds = [node.op_type for node in extracted.graph.node]
    assert kinds.count("MatMul") >= 7


def test_the_proof_counts_what_was_caught_and_what_was_not(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With measurements that are given: how the runs are judged and counted."""
    figures = {
        name: [1.0] * 6
        for name in (
            *("folded_over_plain", "folded_over_plain_wall", "tail_over_plain_tail"),
            *("plain_milliseconds", "folded_milliseconds"),
            *("probe_product_milliseconds", "probe_copy_milliseconds"),
        )
    }
    seen: list[str] = []

    def measured(given: Subject, options: GateOptions) -> dict[str, Any]:
        slow = given.files["folded"].name == "slowed.onnx"
        seen.append("slow" if slow else "clean")
        ratio = {"folded_over_plain": [1.05 if slow else 1.0] * 6}
        return {
            "subject": given.title, "device": "cpu", "clocks": [], "machine": {"processor": "p"},
            "versions": {}, "figures": {**figures, **ratio}, "repeats": 6, "rounds": 8,
        }  # fmt: skip

    monkeypatch.setattr(proof, "measure_subject", measured)
    monkeypatch.setattr(
        proof,
        "calibrated",
        lambda given, path, *_: (
            Subject(given.title, {**given.files, "folded": path}),
            9,
            {"mean": 1.05, "low": 1.049, "high": 1.051},
        ),
    )
    options = proof.ProofOptions(QUICK, clean=3, slowed=2)
    document = proof.prove(subject, tmp_path, options, lambda *_: None)
    assert seen == ["clean"] * 4 + ["slow"] * 2
    assert document["passed"]
    assert (document["false_alarms"], document["missed"]) == (0, 0)
    assert json.loads((tmp_path / "proof.json").read_text()) == document
    assert "caught: 2 of 2" in proof_text(document)
    assert "| slowed | yes | 1 | 1 | 1.0500 to 1.0500 |" in proof_table(document)


def test_a_slowdown_is_calibrated_by_measuring_it(subject: Subject, tmp_path: Path) -> None:
    # Tiny graphs are noisy: a doubling is found where five percent might not be.
    monkey = pytest.MonkeyPatch()
    monkey.setattr(proof, "_CLOSE", 0.5)
    with monkey.context():
        slowed, products, cost = proof.calibrated(subject, tmp_path / "slow.onnx", 1.0)
    monkey.undo()
    assert products >= 1
    assert slowed.files["folded"] == tmp_path / "slow.onnx"
    assert 1.5 <= cost["mean"] <= 2.5


def command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["foldcam", "gate", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_app(bench, "foldcam")
    return int(caught.value.code or 0)


def test_the_command_exits_with_3_and_writes_its_verdict(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--model", str(model), "--repeats", "6", "--rounds", "5", "--baseline", "mine.json"]
    assert command([*flags], monkeypatch) == 1
    assert "--update" in capfd.readouterr().err
    assert command([*flags, "--update"], monkeypatch) == 0
    stored = json.loads((tmp_path / "mine.json").read_text())
    assert {"command", "date", "commit", "machine", "versions"} < set(stored)
    assert len(stored["figures"]["folded_over_plain"]) == 12
    # A baseline that was ten times as cheap.
    for values in stored["figures"].values():
        values[:] = [value / 10 for value in values]
    (tmp_path / "mine.json").write_text(json.dumps(stored))
    capfd.readouterr()
    assert command([*flags, "--markdown", "gate.md", "--json"], monkeypatch) == 3
    document = json.loads(capfd.readouterr().out)
    assert not document["passed"]
    assert (tmp_path / "gate.md").read_text().startswith("### Latency gate: **failed**")


def test_too_few_repeats_are_said_before_anything_is_measured(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--model", str(model), "--repeats", "3", "--update", "--baseline", "mine.json"]
    assert command(flags, monkeypatch) == 1
    assert not (tmp_path / "mine.json").exists()
    assert "3 repeats are too few" in capfd.readouterr().err
