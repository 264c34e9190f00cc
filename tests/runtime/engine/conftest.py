"""Engines that no TensorRT built, machines that are not here, and a recording TensorRT."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.contract.tensors import expected_tensors
from foldcam.runtime.engine import log
from foldcam.runtime.engine.device import DeviceFacts, Gpu, Host
from foldcam.runtime.engine.flavours import Flavour
from foldcam.runtime.engine.manifest import FileRecord, Manifest, Target, manifest_path
from foldcam.runtime.engine.options import BuildOptions

ORIN = DeviceFacts(
    Gpu("Orin", "8.7", True, 4 << 30),
    Host("aarch64", "Linux", "36.4.3"),
    {"tensorrt": "10.3.0"},
)
PLAN = bytes(range(256)) * 4


@pytest.fixture
def orin() -> DeviceFacts:
    """A Jetson with TensorRT 10.3."""
    return ORIN


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """tests/runtime/engine/fake_tensorrt.py: importlib mode has no import path to it."""
    path = Path(__file__).with_name("fake_tensorrt.py")
    spec = importlib.util.spec_from_file_location("foldcam_fake_tensorrt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_flavour(fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Flavour]:
    """`make_flavour("8.6.2", half=True)`: a recording TensorRT with a logger of its own."""
    monkeypatch.setattr(log, "_loggers", {})

    def make(version: str, **settings: Any) -> Flavour:
        return Flavour("tensorrt", version, fake.make(version, **settings))

    return make


@pytest.fixture(scope="session")
def rtx() -> Flavour:
    """The TensorRT-RTX that is really installed."""
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: pip install foldcam[rtx]")
    from foldcam.runtime.engine.flavours import find_flavour

    return find_flavour("rtx")


@pytest.fixture
def make_manifest(make_model: Callable[..., Path]) -> Callable[..., Manifest]:
    """`make_manifest(model, precision="fp16")`: of an engine of `model` for the Orin."""

    def make(model: Path, **changes: Any) -> Manifest:
        image, outputs = expected_tensors(read_contract(model))
        manifest = Manifest(
            plan=FileRecord("tiny.engine", len(PLAN), hashlib.sha256(PLAN).hexdigest()),
            model=FileRecord(
                model.name,
                model.stat().st_size,
                hashlib.sha256(model.read_bytes()).hexdigest(),
            ),
            flavour="tensorrt",
            version="10.3.0",
            target=Target("Orin", ("8.7",), False),
            platform=ORIN.host,
            precision="fp32",
            typing="weak",
            options=BuildOptions(),
            inputs=(image,),
            outputs=tuple(outputs),
            dla_fallback=(),
            build_seconds=252.0,
            foldcam="0.0.1",
            metadata=json.loads(read_header(model).metadata[METADATA_KEY]),
        )
        return replace(manifest, **changes)

    return make


@pytest.fixture
def make_engine(
    tmp_path: Path, make_model: Callable[..., Path], make_manifest: Callable[..., Manifest]
) -> Callable[..., Path]:
    """`make_engine(version="10.2.0")`: plan, manifest and model in a folder of their own."""
    numbers = itertools.count()

    def make(**changes: Any) -> Path:
        folder = tmp_path / f"engine{next(numbers)}"
        folder.mkdir()
        model = make_model(f"{folder.name}/tiny.onnx")
        engine = folder / "tiny.engine"
        engine.write_bytes(PLAN)
        manifest_path(engine).write_text(make_manifest(model, **changes).to_json())
        return engine

    return make
