"""Tables of what ran on GPUs say so, and say where nothing did."""

from __future__ import annotations

import json
from pathlib import Path

from foldcam.benchmarks.studies.gpu_proof import NOTHING, peers_table, steps_table, times_table


def test_nothing_that_did_not_run_has_a_table(tmp_path: Path) -> None:
    assert steps_table(tmp_path) == times_table(tmp_path) == peers_table(tmp_path) == NOTHING


def test_each_device_has_its_steps_and_its_times(tmp_path: Path) -> None:
    step = {"name": "tests", "outcome": "failed", "took": 12.34, "reason": "exit status 1: a|b"}
    case = {
        "network": "ResNet-50", "batch": 1, "precision": "fp16", "cuda_graph": True,
        "milliseconds": {"plain": 1.0, "folded_300": 1.01},
        "ratio_to_plain": {"folded_300": {"ratio": 1.01, "low": 1.0, "high": 1.02}},
    }  # fmt: skip
    for name in ("a-card", "b-card"):
        (tmp_path / name / "peers").mkdir(parents=True)
        proof = {
            "device": {"name": name, "gpu": name.upper()}, "date": "2027-01-02T03:04:05",
            "commit": "0123456789abcdef", "steps": [step],
        }  # fmt: skip
        (tmp_path / name / "proof.json").write_text(json.dumps(proof))
        times = {"device": {"kind": "cuda", "name": name, "onnxruntime": "1.0"}, "cases": [case]}
        (tmp_path / name / "peers" / "gpu.json").write_text(json.dumps(times))
    found = steps_table(tmp_path)
    assert found.index("A-CARD, 2027-01-02, 0123456789ab:") < found.index("B-CARD")
    assert "| tests | failed | 12 | exit status 1: a/b |" in found
    row = (
        "| ResNet-50, batch 1, fp16 in a CUDA graph | folded_300 | 1.010 | 1.010 (1.000 to 1.020) |"
    )
    assert row in peers_table(tmp_path)
    assert times_table(tmp_path) == NOTHING
