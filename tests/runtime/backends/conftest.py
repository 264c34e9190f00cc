"""Fixtures of the pretended GPU and TensorRT, which are importable however pytest was started."""

from __future__ import annotations

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

sys.path.insert(0, str(Path(__file__).parent))

from pretended_cuda import CudaPython, Machine, PyCuda, Status
from pretended_tensorrt import Logged, TensorRT


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
