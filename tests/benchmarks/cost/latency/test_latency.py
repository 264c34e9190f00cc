"""`foldcam bench latency`: what `runtime bench` measures, with table and plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from foldcam.benchmarks.commands.cli import bench
from foldcam.benchmarks.cost.latency import markdown_table, setting
from foldcam.benchmarks.evaluation.graphs import NetworkChoice, chosen_network
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.command import run_app

RECIPE = Preprocessing(width=32, height=32, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_json_table_and_plot_are_written(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(squares)
    data = load_dataset(Path("squares.csv"), "all")
    choice = NetworkChoice("overhead_squares:make", preprocessing=RECIPE)
    loaded = chosen_network(choice, data.samples, tmp_path / "x", lambda *_: None)
    model = tmp_path / "model.onnx"
    export_model(loaded, data, model, parse_objective("all-triplets"), preprocessing=RECIPE)
    out = tmp_path / "out"
    flags = f"{model} --out {out} --passes 45 --warm-up 2 --rate 500 --frame 40x30 --threads 1"
    monkeypatch.setattr(sys, "argv", ["foldcam", "latency", *flags.split(), "--json"])
    with pytest.raises(SystemExit) as caught:
        run_app(bench, "foldcam")
    printed, error = capfd.readouterr()
    assert caught.value.code == 0, error
    document = json.loads(printed)
    assert json.loads((out / "latency.json").read_text()) == document
    assert {"command", "date", "commit"} < set(document)
    # A result is for others to read: no folder of this machine is in it.
    assert str(tmp_path) not in (out / "latency.json").read_text()
    table = markdown_table(document)
    # host and inference back to back; host, inference and response at a pace.
    assert table.count("\n") == 1 + 5
    assert "mJ/image" not in table, "a column that is empty is left out"
    assert "frames of 40 x 30" in setting(document)
    assert (out / "latency.md").read_text().endswith(table + "\n")
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
