"""pycuda: a context is pushed in the thread that calls, and there are no CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from foldcam.runtime.backends.cuda.bindings import (
    NON_BLOCKING,
    Bytes,
    CudaBindings,
    CudaDevice,
    CudaError,
)
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten


def load_pycuda() -> CudaBindings:
    """pycuda, on the device's primary context, which TensorRT uses too."""
    return _PyCuda(import_module("pycuda.driver"))


class _PyCuda:
    why_no_graphs = "pycuda has no CUDA graphs; pip install cuda-bindings"

    def __init__(self, driver: ModuleType) -> None:
        self._cuda: Any = driver
        version = getattr(import_module("pycuda"), "VERSION_TEXT", "")
        self.name = f"pycuda {version}".strip()
        with self._guarded("cuInit"):
            driver.init()
            self._device: Any = driver.Device(0)
            self._context: Any = self._device.retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def device(self) -> CudaDevice:
        with self._guarded("cuMemGetInfo"):
            free, total = self._cuda.mem_get_info()
            major, minor = self._device.compute_capability()
            return CudaDevice(str(self._device.name()), (major, minor), int(free), int(total))

    def stream_create(self) -> Any:
        with self._guarded("cuStreamCreate"):
            return self._cuda.Stream(NON_BLOCKING)

    def stream_synchronize(self, stream: Any) -> None:
        with self._guarded("cuStreamSynchronize"):
            stream.synchronize()

    def stream_destroy(self, stream: Any) -> None:
        """pycuda does it when the last reference goes."""

    def address(self, handle: Any) -> int:
        return int(handle.handle) if hasattr(handle, "handle") else int(handle)

    def host_alloc(self, size: int) -> tuple[Any, Bytes]:
        with self._guarded("cuMemHostAlloc"):
            view = self._cuda.pagelocked_empty(size, np.uint8)
        return view.base, view

    def host_free(self, handle: Any) -> None:
        with self._guarded("cuMemFreeHost"):
            handle.free()

    def device_alloc(self, size: int) -> Any:
        with self._guarded("cuMemAlloc"):
            return self._cuda.mem_alloc(size)

    def device_free(self, handle: Any) -> None:
        with self._guarded("cuMemFree"):
            handle.free()

    def copy_to_device(self, target: Any, source: Bytes, stream: Any) -> None:
        with self._guarded("cuMemcpyHtoDAsync"):
            self._cuda.memcpy_htod_async(target, source, stream)

    def copy_to_host(self, target: Bytes, source: Any, stream: Any) -> None:
        with self._guarded("cuMemcpyDtoHAsync"):
            self._cuda.memcpy_dtoh_async(target, source, stream)

    def capture_abandon(self, stream: Any) -> None:
        """Nothing was begun."""

    def graph_destroy(self, graph: Any) -> None:
        """There are none."""

    def _no_graphs(self, *_: Any) -> NoReturn:
        raise FoldcamError(f"{self.why_no_graphs}.")

    capture_begin = capture_end = graph_launch = _no_graphs

    @contextmanager
    def _guarded(self, call: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            # pycuda's text: "cuMemAlloc failed: out of memory".
            text = str(error).rpartition(": ")[2].splitlines()
            short = printable(shorten(text[0] if text else "", 200))
            memory = isinstance(error, self._cuda.MemoryError)
            name = "CUDA_ERROR_OUT_OF_MEMORY" if memory else type(error).__name__
            raise CudaError(call, name, short) from error
