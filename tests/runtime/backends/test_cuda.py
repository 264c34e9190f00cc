"""The CUDA libraries: which one is taken, what it says where there is no GPU, and its names."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from foldcam.runtime.backends import cuda as package
from foldcam.runtime.backends.cuda import find_cuda
from foldcam.runtime.backends.cuda.cuda_python import _CudaPython, load_cuda_python
from foldcam.runtime.backends.cuda.memory import CudaMemory
from foldcam.runtime.backends.cuda.pycuda import _PyCuda
from foldcam.runtime.engine.device import find_gpu
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def installed(monkeypatch):
    """`installed(name=module, ...)`: these modules are there, and no other CUDA library."""

    def install(**modules):
        names = ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart", "pycuda",
                 "pycuda.driver")  # fmt: skip
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)
        real = importlib.import_module

        def load(name):
            if name in names:
                found = modules.get(name.replace(".", "_"))
                if found is None:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
                if isinstance(found, Exception):
                    raise found
                return found
            return real(name)

        for module in ("cuda_python", "pycuda"):
            monkeypatch.setattr(f"{package.__name__}.{module}.import_module", load)

    return install


def test_cuda_python_goes_first_and_knows_the_device(installed, cuda_python, pycuda):
    installed(cuda_bindings_runtime=cuda_python, pycuda_driver=pycuda, pycuda=SimpleNamespace())
    found = find_cuda()
    assert found.name == "cuda-python 13.5"
    assert found.why_no_graphs == ""
    device = found.device()
    assert (device.name, device.compute_capability) == ("Pretended GPU", (8, 7))
    assert device.total_bytes == 1 << 30


def test_old_place_of_cuda_python_is_looked_at_too(installed, cuda_python):
    installed(cuda_cudart=cuda_python)
    assert find_cuda().name == "cuda-python 13.5"


def test_pycuda_serves_where_cuda_python_does_not_fit_the_driver(
    installed, machine, cuda_python, pycuda, statuses
):
    installed(
        cuda_bindings_runtime=cuda_python,
        pycuda_driver=pycuda,
        pycuda=SimpleNamespace(VERSION_TEXT="2024.1"),
    )
    machine.fail["cudaMemGetInfo"] = statuses.cudaErrorIllegalState
    assert find_cuda().name == "pycuda 2024.1"
    assert pycuda.pushed == 0


def test_none_installed_says_what_to_install(installed):
    installed()
    with pytest.raises(FoldcamError, match=r"none is installed: pip install 'cuda-bindings==12"):
        find_cuda()


def test_every_library_that_fails_is_named_with_its_reason(
    installed, machine, cuda_python, statuses
):
    installed(cuda_bindings_runtime=cuda_python, pycuda_driver=ImportError("libcuda.so.1: no\nx"))
    machine.fail["cudaMemGetInfo"] = statuses.cudaErrorIllegalState
    with pytest.raises(FoldcamError) as caught:
        find_cuda()
    assert "cudaMemGetInfo says cudaErrorIllegalState; libcuda.so.1: no)" in str(caught.value)


@pytest.mark.parametrize("binding", ["cuda_python", "pycuda"])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 3, 2), np.float32), ((4,), np.float32), ((4, 2), np.uint8)]
)
def test_rows_travel_there_and_back(request, monkeypatch, machine, binding, shape, dtype):
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace())
    library = request.getfixturevalue(binding)
    cuda = {"cuda_python": _CudaPython, "pycuda": _PyCuda}[binding](library)
    memory = CudaMemory(cuda)
    with memory.current():
        buffer = memory.buffer("x", shape, np.dtype(dtype))
        assert buffer.host.shape == shape
        assert not buffer.host.any()
        values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        buffer.host[...] = values
        memory.to_device(buffer, 3)
        memory.synchronize()
        buffer.host[...] = 99
        memory.to_host(buffer, 2)
        assert (buffer.host == 99).all()
        memory.synchronize()
        np.testing.assert_array_equal(buffer.host[:2], values[:2])
        assert (buffer.host[2:] == 99).all()
    memory.close()
    memory.close()
    assert not machine.device
    assert not machine.pinned


def test_real_cuda_python_has_every_name_and_refuses_in_words():
    """Without a driver every call fails, but each is there and returns its error first."""
    pytest.importorskip("cuda", reason="needs cuda-python: pip install cuda-bindings")
    cuda = load_cuda_python()
    assert cuda.name.startswith("cuda-python 1")
    module = cuda._cuda
    assert module.cudaMemcpyKind.cudaMemcpyHostToDevice == 1
    assert module.cudaMemcpyKind.cudaMemcpyDeviceToHost == 2
    assert module.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal == 1
    for name in (
        "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags",
        "cudaGraphLaunch", "cudaGraphDestroy", "cudaGraphExecDestroy", "cudaGetErrorString",
        "cudaGetDeviceProperties", "cudaStreamSynchronize", "cudaStreamDestroy", "cudaFree",
        "cudaFreeHost", "cudaMemcpyAsync", "cudaGetLastError",
    ):  # fmt: skip
        assert callable(getattr(module, name))
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU: see tests/gpu")
    for call in (cuda.device, cuda.stream_create, lambda: cuda.device_alloc(8)):
        with pytest.raises((FoldcamError, RuntimeError)):
            call()
    with pytest.raises(FoldcamError, match="No NVIDIA GPU can be used here"):
        find_cuda()
