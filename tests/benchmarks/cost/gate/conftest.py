"""A small folded model for the gate, and a machine with a pretended GPU and TensorRT."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from foldcam.benchmarks.evaluation.graphs import NetworkChoice, chosen_network
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.runtime.images.preprocess import Preprocessing

RECIPE = Preprocessing(width=64, height=64, mean=(0.0,) * 3, std=(1.0,) * 3)
DEVICE = Path(__file__).resolve().parents[3] / "pretended_device"


@pytest.fixture(scope="session")
def model(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(squares)
        data = load_dataset(Path("squares.csv"), "all")
        choice = NetworkChoice("overhead_squares:make", preprocessing=RECIPE)
        loaded = chosen_network(choice, data.samples, path, lambda *_: None)
        export_model(loaded, data, path, parse_objective("all-triplets"), preprocessing=RECIPE)
    return path


@pytest.fixture(scope="session")
def pretended_in() -> Callable[[Path], dict[str, str]]:
    """`pretended_in(folder)`: the environment of a machine with the pretended GPU.

    What the GPU is asked is in `folder / "log"`.
    """
    return lambda folder: {
        **os.environ,
        "PATH": f"{DEVICE / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(DEVICE),
        "PRETENDED_LOG": str(folder / "log"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "COLUMNS": "200",
    }


@pytest.fixture
def pretended_device(
    pretended_in: Callable[[Path], dict[str, str]], tmp_path: Path
) -> dict[str, str]:
    """That environment with the test's own folder."""
    return pretended_in(tmp_path)
