"""Folded models for the GPU to run: the graphs of the exporter's own tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXPORT = Path(__file__).parents[1] / "export"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"foldcam_gpu_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def hand_built() -> ModuleType:
    return _load(EXPORT / "hand_built.py")


@pytest.fixture
def fold(hand_built: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """`fold(rows=300, input_type="uint8")` writes a folded model with a random bank."""
    pytest.importorskip("torch", reason="makes its models with the exporter: foldcam[export]")
    random_bank = _load(EXPORT / "conftest.py").random_bank.__wrapped__()

    def make(rows: int = 9, transform: Any = None, **settings: Any) -> Path:
        bank = random_bank(rows, hand_built.D, hand_built.K, transform=transform)
        recipe = hand_built.Preprocessing(hand_built.WIDTH, hand_built.HEIGHT)
        path = tmp_path / "model.onnx"
        path.write_bytes(hand_built.folded(bank, recipe, **settings).SerializeToString())
        return path

    return make
