"""The example models, and a shorthand for checking one of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from foldcam.export.verification.check.checker import TargetReport, check_model
from foldcam.export.verification.check.targets import find_targets


@pytest.fixture(scope="session")
def examples() -> ModuleType:
    """tests/export/verification/check/examples.py: importlib mode has no import path to it."""
    spec = importlib.util.spec_from_file_location(
        "foldcam_check_examples", Path(__file__).with_name("examples.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checked(tmp_path: Path) -> Callable[[onnx.ModelProto, str], TargetReport]:
    """`checked(model, "jetpack-6.2")`."""

    def run(model: onnx.ModelProto, target: str) -> TargetReport:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return check_model(path, find_targets([target])).targets[0]

    return run
