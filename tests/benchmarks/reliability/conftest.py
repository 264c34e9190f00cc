"""A folded model so small that the checks are about the run, not about the network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """The hand-built model of the runtime's tests."""
    path = Path(__file__).parents[2] / "runtime" / "conftest.py"
    spec = importlib.util.spec_from_file_location("foldcam_test_runtime_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Path = module.save_model(tmp_path_factory.mktemp("model") / "tiny.onnx")
    return made
