"""cuda-python: the CUDA runtime's own functions, each of which returns its error first."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from foldcam.runtime.backends.cuda.bindings import (
    NON_BLOCKING,
    Bytes,
    CudaBindings,
    CudaDevice,
    CudaError,
)


def load_cuda_python() -> CudaBindings:
    """cuda-python, from its place in 12.9 and later or the one before."""
    try:
        return _CudaPython(import_module("cuda.bindings.runtime"))
    except ModuleNotFoundError:
        return _CudaPython(import_module("cuda.cudart"))


class _CudaPython:
    why_no_graphs = ""

    def __init__(self, runtime: ModuleType) -> None:
        self._cuda: Any = runtime
        version = int(self._call("cudaRuntimeGetVersion"))
        self.name = f"cuda-python {version // 1000}.{version % 1000 // 10}"

    def current(self) -> AbstractContextManager[None]:
        # The runtime makes the first device current in every thread that calls it.
        return nullcontext()

    def device(self) -> CudaDevice:
        free, total = self._call("cudaMemGetInfo")
        properties = self._call("cudaGetDeviceProperties", 0)
        name = properties.name
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        capability = (int(properties.major), int(properties.minor))
        return CudaDevice(text.rstrip("\0"), capability, int(free), int(total))

    def stream_create(self) -> Any:
        return self._call("cudaStreamCreateWithFlags", NON_BLOCKING)

    def stream_synchronize(self, stream: Any) -> None:
        self._call("cudaStreamSynchronize", stream)

    def stream_destroy(self, stream: Any) -> None:
        self._call("cudaStreamDestroy", stream)

    def address(self, handle: Any) -> int:
        return int(handle)

    def host_alloc(self, size: int) -> tuple[Any, Bytes]:
        pointer = self._call("cudaHostAlloc", size, 0)
        view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(pointer)))
        return pointer, view

    def host_free(self, handle: Any) -> None:
        self._call("cudaFreeHost", handle)

    def device_alloc(self, size: int) -> Any:
        return self._call("cudaMalloc", size)

    def device_free(self, handle: Any) -> None:
        self._call("cudaFree", handle)

    def copy_to_device(self, target: Any, source: Bytes, stream: Any) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, source.nbytes, kind, stream)

    def copy_to_host(self, target: Bytes, source: Any, stream: Any) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, target.nbytes, kind, stream)

    def capture_begin(self, stream: Any) -> None:
        # Not the global mode: it would forbid other threads, such as a second engine's,
        # to allocate in the meantime.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def capture_end(self, stream: Any) -> Any:
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            # `cudaGraphInstantiate` has other arguments in CUDA 11 than in 12.
            return self._call("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._cuda.cudaGraphDestroy(graph)

    def capture_abandon(self, stream: Any) -> None:
        _, graph = self._cuda.cudaStreamEndCapture(stream)
        if graph is not None and int(graph):
            self._cuda.cudaGraphDestroy(graph)
        # The failed capture stays the "last error", and TensorRT would stumble over it.
        self._cuda.cudaGetLastError()

    def graph_launch(self, graph: Any, stream: Any) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def graph_destroy(self, graph: Any) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._cuda, name)(*arguments)
        if int(error) != 0:
            raise CudaError(name, str(getattr(error, "name", error)), self._text(error))
        return values[0] if len(values) == 1 else tuple(values)

    def _text(self, error: Any) -> str:
        try:
            _, text = self._cuda.cudaGetErrorString(error)
            return str(text.decode() if isinstance(text, bytes) else text)
        except Exception:  # before 12.9 it needs the very driver that may be missing
            return ""
