"""Fixtures of the pretended GPU and TensorRT, which are importable however pytest was started."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldcam.runtime.backends.cuda.cuda_python import _CudaPython
from foldcam.runtime.backends.cuda.memory import CudaMemory
from foldcam.runtime.backends.tensorrt.backend import CheckedPlan, TensorRTBackend
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.tensors import further_inputs
from foldcam.runtime.engine.device import DeviceFacts, Gpu, find_host
from foldcam.runtime.engine.manifest import FileRecord, Manifest, Target, manifest_path
from foldcam.runtime.engine.options import BuildOptions, Profile
from foldcam.runtime.system.files import sha256_of_file

sys.path.insert(0, str(Path(__file__).parent))

from pretended_cuda import CudaPython, Machine, PyCuda, Status
from pretended_tensorrt import Logged, TensorRT

VERSION = "10.3.0"


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def statuses() -> type[Status]:
    return Status


@pytest.fixture
def cuda_python(machine: Machine) -> CudaPython:
    return CudaPython(machine)


@pytest.fixture
def pycuda(machine: Machine) -> PyCuda:
    return PyCuda(machine)


@pytest.fixture
def logger() -> Any:
    return SimpleNamespace(handle=object(), messages=Logged())


@pytest.fixture
def trt(machine: Machine, logger: Any) -> TensorRT:
    return TensorRT(machine, logger)


@pytest.fixture
def gpu(monkeypatch, machine, cuda_python, trt, logger):
    """A machine with the pretended GPU and TensorRT; `gpu.here = None` takes the GPU away."""
    state = SimpleNamespace(
        here=Gpu("Pretended GPU", "8.7", True, 1 << 30), built=[], opened=machine
    )
    flavour = SimpleNamespace(
        name="tensorrt", version=VERSION, module=trt, title=f"TensorRT {VERSION}", rtx=False,
        release=(10, 3, 0), wanted="tensorrt",
    )  # fmt: skip
    facts = "foldcam.runtime.engine.device.device_facts"
    monkeypatch.setattr(facts, lambda: DeviceFacts(state.here, find_host(), {"tensorrt": VERSION}))
    monkeypatch.setattr("foldcam.runtime.engine.flavours.find_flavour", lambda wanted: flavour)
    monkeypatch.setattr("foldcam.runtime.engine.log.owned_logger", lambda found: logger)
    monkeypatch.setattr(
        "foldcam.runtime.backends.tensorrt.opening.CudaMemory",
        lambda: CudaMemory(_CudaPython(cuda_python)),
    )
    return state


@pytest.fixture
def with_engine(tiny_model, tmp_path, make_plan, write_engine):
    """`with_engine()` copies the tiny model and puts an engine of the pretended kind beside it."""
    from foldcam.runtime.system.version import version

    def make(model: Path = tiny_model, **plan: Any) -> Path:
        copy = tmp_path / "tiny.onnx"
        copy.write_bytes(model.read_bytes())
        return write_engine(copy, make_plan(**plan), version())

    return make


@pytest.fixture
def write_engine() -> Callable[[Path, bytes, str], Path]:
    """`write_engine(model, plan, version)` writes plan and manifest beside a model."""
    return _write_engine


def _write_engine(model: Path, plan: bytes, foldcam: str) -> Path:
    engine = model.with_suffix(".engine")
    engine.write_bytes(plan)
    header = read_header(model)
    manifest = Manifest(
        plan=FileRecord(engine.name, len(plan), hashlib.sha256(plan).hexdigest()),
        model=FileRecord(model.name, model.stat().st_size, sha256_of_file(model)),
        flavour="tensorrt",
        version=VERSION,
        target=Target("Pretended GPU", ("8.7",), False),
        platform=find_host(),
        precision="fp32",
        typing="weak",
        options=BuildOptions(profiles=(Profile(1, 4, 8),)),
        # A bank that is an input is not in the graph of a tiny model.
        inputs=(*header.inputs, *further_inputs(read_contract(model))),
        outputs=header.outputs,
        dla_fallback=(),
        build_seconds=252.0,
        foldcam=foldcam,
        metadata=json.loads(read_contract(model).to_json()),
    )
    manifest_path(engine).write_text(manifest.to_json())
    return engine


@pytest.fixture
def make_plan(contract_with: Callable[..., Any]) -> Callable[..., bytes]:
    """`make_plan(profiles=[(1, 4, 8)], embedding=["HALF", [-1, 3]])`: the tiny model's plan."""

    def make(
        profiles: list[tuple[int, int, int]] | None = None,
        input_type: str = "float32",
        fixed: int | None = None,
        drop: str = "",
        **changed: Any,
    ) -> bytes:
        batch = -1 if fixed is None else fixed
        uint8 = input_type == "uint8"
        tensors: dict[str, Any] = {
            "image": ["UINT8", [batch, 8, 8, 3]] if uint8 else ["FLOAT", [batch, 3, 8, 8]],
            "embedding": ["FLOAT", [batch, 3]],
            "heatmap": ["FLOAT", [batch, 1, 2, 2]],
            "neighbor": ["INT32", [batch, 2]],
            "similarity": ["FLOAT", [batch, 2]],
        }
        tensors.update(changed)
        tensors.pop(drop, None)
        if profiles is None:
            profiles = [(1, 4, 8)] if fixed is None else [(fixed, fixed, fixed)]
        return json.dumps({"profiles": profiles, "tensors": tensors}).encode()

    return make


@pytest.fixture
def open_plan(machine, cuda_python, trt, logger, contract_with, make_plan):
    """`open_plan(profiles=..., input_type=...)` opens a plan in the pretended TensorRT."""

    def make(plan=None, *, release=(10, 3, 0), rtx=False, cuda_graph=True, cuda=None, **options):
        input_type = options.get("input_type", "float32")
        contract = contract_with(input_type=input_type, frame=options.pop("frame", None))
        data = make_plan(**options) if plan is None else plan
        library = SimpleNamespace(module=trt, title="TensorRT 10.3.0", rtx=rtx, release=release)
        memory = CudaMemory(_CudaPython(cuda_python) if cuda is None else cuda)
        return TensorRTBackend(
            CheckedPlan(Path("birds.engine"), data, contract), library, logger, memory, cuda_graph
        )

    return make
