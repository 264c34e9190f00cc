"""A pretended GPU: CUDA and TensorRT as far as the backend uses them, recording every call.

Nothing runs before somebody waits: work goes onto a stream and is done when the stream is
synchronised, so that a result read too early is visibly wrong (device memory starts as 0xAB).
The pretended network returns values that can be told by hand: the embedding is the mean of
each channel, the heatmap the red channel's quarters, the neighbors 0, 1, ..., the
similarities 1, 1/2, ...
"""

# ruff: noqa: N802, N815 (the names are those of CUDA and TensorRT)

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

GARBAGE = 0xAB
INPUTS = ("image", "bank_", "query")


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


class TensorRT:
    """What is used of `tensorrt`. A plan is JSON here; see `make_plan`.

    `fail` names what refuses: `runtime`, `deserialize`, `context`, `enqueue`, `capture`,
    `profile`, `shape`, `address`. `say` is what TensorRT then tells recorder or logger.
    """

    class IErrorRecorder:
        def __init__(self) -> None:
            pass

    def __init__(self, machine: Machine, logger: Any) -> None:
        self.machine = machine
        self.logger = logger
        self.fail: set[str] = set()
        self.say: list[str] = []
        self.runtimes: list[Any] = []
        self.most_contexts = 100
        self.capturable: list[bool] = []

    def refuses(self, what: str, recorder: Any) -> bool:
        if what not in self.fail:
            return False
        for text in self.say:
            if recorder is None:
                self.logger.messages.texts.append(text)
            else:
                recorder.report_error(1, text)
        return True

    def Runtime(self, handle: Any) -> Any:
        assert handle is self.logger.handle
        return None if self.refuses("runtime", None) else Runtime(self)


class Runtime:
    def __init__(self, trt: TensorRT) -> None:
        self._trt = trt
        self.engine_host_code_allowed = True
        self.error_recorder: Any = None
        trt.machine.calls.append("runtime")

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        assert self.engine_host_code_allowed is False
        self._trt.machine.calls.append("deserialize")
        if self._trt.refuses("deserialize", self.error_recorder):
            return None
        return Engine(self._trt, self.error_recorder, json.loads(plan))

    def __del__(self) -> None:
        self._trt.machine.calls.append("del runtime")


class Engine:
    def __init__(self, trt: TensorRT, recorder: Any, plan: dict[str, Any]) -> None:
        self.trt, self.recorder, self.plan = trt, recorder, plan
        self.names = list(plan["tensors"])
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.plan["tensors"][name][1])

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.plan["tensors"][name][0])

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name.startswith(INPUTS) else "OUTPUT")

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        rest = self.get_tensor_shape(name)[1:]
        return [(size, *rest) for size in self.plan["profiles"][index]]

    def create_execution_context(self) -> Any:
        trt = self.trt
        trt.machine.calls.append("context")
        full = trt.machine.contexts >= trt.most_contexts
        if full or trt.refuses("context", self.recorder):
            return None
        return Context(self)

    def __del__(self) -> None:
        self.trt.machine.calls.append("del engine")


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._trt = engine.trt
        self._machine = engine.trt.machine
        self._addresses: dict[str, int] = {}
        self._batch = 0
        self._rows: dict[str, int] = {}
        self._settled = False
        self.active_optimization_profile = 0
        self._machine.contexts += 1
        if self._trt.capturable:
            self.is_stream_capturable = lambda stream: self._trt.capturable.pop(0)

    def __del__(self) -> None:
        self._machine.contexts -= 1
        self._machine.calls.append("del context")

    def _no(self, what: str) -> bool:
        return self._trt.refuses(what, self._engine.recorder)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in self._machine.device
        self._addresses[name] = address
        return not self._no("address")

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._machine.calls.append(f"profile {index}")
        self.active_optimization_profile = index
        self._batch = 0
        return not self._no("profile")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._machine.calls.append(f"shape {list(shape)}")
        if name != "image":
            self._rows[name] = shape[0]
            return True
        low, _, high = self._engine.plan["profiles"][self.active_optimization_profile]
        good = low <= shape[0] <= high and not self._no("shape")
        self._batch = shape[0] if good else 0
        self._settled = False
        return good

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        _, shape, *real = self._engine.plan["tensors"][name]
        return (self._batch, *(real[0] if real else shape[1:]))

    def execute_async_v3(self, stream: int) -> bool:
        self._machine.calls.append("enqueue")
        assert self._batch, "enqueued before a shape was set"
        assert set(self._addresses) == set(self._engine.names)
        assert stream in self._machine.streams, "the stream is gone, or the default one"
        if self._machine.capturing.get(stream) is not None:
            assert self._settled, "captured before one run at this shape"
            if self._no("capture"):
                return False
        self._settled = True
        if self._no("enqueue"):
            return False
        batch = self._batch
        self._machine.put(stream, lambda: self._compute(batch))
        return True

    def _compute(self, batch: int) -> None:
        self._machine.calls.append(f"computed {batch}")
        device, plan = self._machine.device, self._engine.plan["tensors"]
        kind = np.uint8 if plan["image"][0] == "UINT8" else np.float32
        shape = (batch, *plan["image"][1][1:])
        count = int(np.prod(shape))
        image = np.frombuffer(bytes(device[self._addresses["image"]]), kind, count).reshape(shape)
        if kind == np.uint8:
            image = image.transpose(0, 3, 1, 2) / np.float32(255)
        size = image.shape[-1] // 2
        quarters = image[:, 0].reshape(batch, 2, size, 2, size).mean((2, 4), dtype=np.float32)
        k = plan["neighbor"][1][1]
        outputs = {
            "embedding": image.mean((2, 3), dtype=np.float32),
            "heatmap": quarters[:, None],
            "neighbor": np.tile(np.arange(k, dtype=np.int32), (batch, 1)),
            "similarity": np.tile(1 / np.arange(1, k + 1, dtype=np.float32), (batch, 1)),
        }
        if "bank_embedding" in plan:
            outputs |= self._nearest(outputs["embedding"], k)
        for name, value in outputs.items():
            content = value.astype(value.dtype).tobytes()
            device[self._addresses[name]][: len(content)] = content

    def _nearest(self, embedding: Any, k: int) -> dict[str, Any]:
        """Rows of the bank that lies on the device; `query` turns their order around."""
        device = self._machine.device
        size = embedding.shape[1]
        count = self._rows["bank_embedding"] * size
        held = bytes(device[self._addresses["bank_embedding"]])
        bank = np.frombuffer(held, np.float32, count).reshape(-1, size)
        scores = embedding / np.linalg.norm(embedding, axis=1, keepdims=True) @ bank.T
        if "query" in self._engine.plan["tensors"]:
            assert self._rows["query"] == len(embedding)
            held = bytes(device[self._addresses["query"]])
            asked = np.frombuffer(held, np.float32, embedding.size).reshape(embedding.shape)
            scores = np.where(asked.any(axis=1, keepdims=True), -scores, scores)
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        similarity = np.take_along_axis(scores, rows, 1).astype(np.float32)
        return {"neighbor": rows, "similarity": similarity}


class Logged:
    """The logger's messages, as `runtime.engine.log.Messages`."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self) -> int:
        return len(self.texts)

    def errors(self, since: int = 0) -> list[str]:
        return self.texts[since:]


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
