"""A pretended GPU: CUDA as far as the backends use it, recording every call.

Nothing runs before somebody waits: work goes onto a stream and is done when the stream is
synchronised, so that a result read too early is visibly wrong (device memory starts as 0xAB).
"""

# ruff: noqa: N802, N815 (the names are those of CUDA)

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

GARBAGE = 0xAB


class Status(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalState = 401
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class Machine:
    """The pretended GPU.

    Set `fail[call] = Status` to make the next call of a CUDA function fail, and `memory` to
    the bytes that may be allocated. `calls` is what happened, in order.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, Status] = {}
        self.memory = 1 << 30
        self.device: dict[int, bytearray] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, list[Callable[[], None]] | None] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.contexts = 0
        self._next = 0x1000

    def handle(self) -> int:
        self._next += 0x1000
        return self._next

    def put(self, stream: int, work: Callable[[], None]) -> None:
        recording = self.capturing.get(stream)
        (self.streams[stream] if recording is None else recording).append(work)

    def clean(self) -> bool:
        """Whether everything was given back."""
        left = (self.device, self.pinned, self.streams, self.graphs, self.contexts)
        return not any(left)

    def count(self, call: str) -> int:
        return self.calls.count(call)


class CudaPython:
    """What is used of `cuda.bindings.runtime`."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="h2d", cudaMemcpyDeviceToHost="d2h")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(value):
            return value
        machine: Machine = object.__getattribute__(self, "_machine")

        def call(*arguments: Any) -> tuple[Any, ...]:
            machine.calls.append(name)
            if name in machine.fail:
                return (machine.fail.pop(name), None)
            result = value(*arguments)
            if isinstance(result, Status):
                return (result, None)
            return (Status.cudaSuccess, *(result if isinstance(result, tuple) else (result,)))

        return call

    def cudaRuntimeGetVersion(self) -> int:
        return 13050

    def cudaGetErrorString(self, error: Status) -> bytes:
        return {2: b"out of memory", 700: b"an illegal memory access"}.get(error, b"it failed")

    def cudaGetLastError(self) -> tuple[()]:
        return ()

    def cudaGetDeviceProperties(self, device: int) -> Any:
        assert device == 0
        return SimpleNamespace(name=b"Pretended GPU\0\0", major=8, minor=7)

    def cudaMemGetInfo(self) -> tuple[int, int]:
        return self._machine.memory, 1 << 30

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        assert flags == 1
        stream = self._machine.handle()
        self._machine.streams[stream] = []
        return stream

    def cudaStreamDestroy(self, stream: int) -> tuple[()]:
        del self._machine.streams[stream]
        return ()

    def cudaStreamSynchronize(self, stream: int) -> tuple[()]:
        work, self._machine.streams[stream] = self._machine.streams[stream], []
        for each in work:
            each()
        return ()

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        block = (ctypes.c_uint8 * size)(*([GARBAGE] * size))
        self._machine.pinned[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cudaFreeHost(self, pointer: int) -> tuple[()]:
        del self._machine.pinned[pointer]
        return ()

    def cudaMalloc(self, size: int) -> Any:
        if size > self._machine.memory:
            return Status.cudaErrorMemoryAllocation
        self._machine.memory -= size
        address = self._machine.handle()
        self._machine.device[address] = bytearray([GARBAGE] * size)
        return address

    def cudaFree(self, address: int) -> tuple[()]:
        self._machine.memory += len(self._machine.device.pop(address))
        return ()

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> tuple[()]:
        machine = self._machine

        def copy() -> None:
            if kind == "h2d":
                machine.device[to][:size] = ctypes.string_at(source, size)
            else:
                ctypes.memmove(to, bytes(machine.device[source][:size]), size)

        host = source if kind == "h2d" else to
        assert host in machine.pinned, "not the beginning of a pinned buffer"
        machine.calls[-1] = f"copy {kind} {size}"
        machine.put(stream, copy)
        return ()

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple[()]:
        assert mode == "thread"
        assert not self._machine.streams[stream], "work was waiting as the capture began"
        self._machine.capturing[stream] = []
        return ()

    def cudaStreamEndCapture(self, stream: int) -> Any:
        recorded = self._machine.capturing.pop(stream, None)
        if recorded is None:
            return Status.cudaErrorIllegalState
        graph = self._machine.handle()
        self._machine.graphs[graph] = recorded
        return graph

    def cudaGraphInstantiateWithFlags(self, graph: int, flags: int) -> int:
        executable = self._machine.handle()
        self._machine.graphs[executable] = self._machine.graphs[graph]
        return executable

    def cudaGraphDestroy(self, graph: int) -> tuple[()]:
        del self._machine.graphs[graph]
        return ()

    def cudaGraphExecDestroy(self, graph: int) -> tuple[()]:
        del self._machine.graphs[graph]
        return ()

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[()]:
        for work in self._machine.graphs[graph]:
            self._machine.put(stream, work)
        return ()


class PyCuda:
    """What is used of `pycuda.driver`: a context per thread, and errors that are raised."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class LogicError(Error):
        pass

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._cuda = CudaPython(machine)
        self.pushed = 0
        outer = self

        def ask(name: str, *arguments: Any) -> Any:
            machine.calls.append(name)
            assert outer.pushed, f"{name} without a context in this thread"
            error, *values = getattr(outer._cuda, name)(*arguments)
            if error == Status.cudaErrorMemoryAllocation:
                raise outer.MemoryError(f"{name} failed: out of memory")
            if error:
                raise outer.LogicError(f"{name} failed: {error.name}")
            return values[0] if values else None

        class Context:
            def push(self) -> None:
                outer.pushed += 1

            @staticmethod
            def pop() -> None:
                outer.pushed -= 1

        class Device:
            def __init__(self, number: int) -> None:
                assert number == 0

            def retain_primary_context(self) -> Context:
                return Context()

            def compute_capability(self) -> tuple[int, int]:
                return (8, 7)

            def name(self) -> str:
                return "Pretended GPU"

        class Stream:
            def __init__(self, flags: int) -> None:
                self.handle = ask("cudaStreamCreateWithFlags", flags)

            def synchronize(self) -> None:
                ask("cudaStreamSynchronize", self.handle)

            def __del__(self) -> None:
                machine.streams.pop(getattr(self, "handle", 0), None)

        class Allocation:
            def __init__(self, size: int) -> None:
                self.address = ask("cudaMalloc", size)

            def __int__(self) -> int:
                return self.address

            def free(self) -> None:
                ask("cudaFree", self.address)

        def pagelocked_empty(size: int, dtype: Any) -> Any:
            pointer = ask("cudaHostAlloc", size, 0)
            view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))
            free = SimpleNamespace(free=lambda: ask("cudaFreeHost", pointer))
            return SimpleView(view, free)

        class SimpleView(np.ndarray):
            def __new__(cls, view: Any, owner: Any) -> Any:
                made = view.view(cls)
                made.owner = owner
                return made

            @property
            def base(self) -> Any:
                return self.owner

        def htod(target: Any, source: Any, stream: Any) -> None:
            ask("cudaMemcpyAsync", int(target), source.ctypes.data, source.nbytes, "h2d",
                stream.handle)  # fmt: skip

        def dtoh(target: Any, source: Any, stream: Any) -> None:
            ask("cudaMemcpyAsync", target.ctypes.data, int(source), target.nbytes, "d2h",
                stream.handle)  # fmt: skip

        self.Context, self.Device, self.Stream = Context, Device, Stream
        self.mem_alloc, self.pagelocked_empty = Allocation, pagelocked_empty
        self.memcpy_htod_async, self.memcpy_dtoh_async = htod, dtoh
        self.mem_get_info = lambda: ask("cudaMemGetInfo") and (machine.memory, 1 << 30)

    def init(self) -> None:
        self._machine.calls.append("cuInit")
