"""One execution context of an engine at one batch size, and its CUDA graph."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.runtime.backends.cuda.memory import Buffer, CudaMemory
from foldcam.runtime.backends.tensorrt.messages import Messages
from foldcam.runtime.contract.onnx_file import TensorInfo
from foldcam.runtime.contract.schema import IMAGE, QUERY, Contract
from foldcam.runtime.contract.tensors import check_tensors, expected_tensors, further_inputs
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable

_TRIES = 50
_BATCH = "N"
# By name: the numbers behind TensorRT's enumeration are no promise.
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32",
    "INT64": "int64", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """An optimization profile: the batch sizes that the engine takes while it is chosen."""

    index: int
    smallest: int
    largest: int

    def batch_for(self, rows: int) -> int:
        """The images that must be run for `rows` of them."""
        return max(rows, self.smallest)


@dataclass(frozen=True)
class EngineTensors:
    """The tensors of an engine."""

    image: tuple[int, ...]
    outputs: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    profiles: tuple[Profile, ...]
    bank: dict[str, tuple[int, ...]] = field(default_factory=dict)
    query: tuple[int, ...] | None = None

    @property
    def largest_batch(self) -> int:
        """Over all profiles."""
        return max(profile.largest for profile in self.profiles)

    def profile_for(self, rows: int) -> Profile:
        """The profile that takes `rows` images with the fewest blank ones beside them."""
        fitting = [profile for profile in self.profiles if rows <= profile.largest]
        return min(fitting, key=lambda profile: (profile.batch_for(rows), profile.largest))


def read_tensors(
    engine: Any, contract: Contract, where: str, only: Collection[str] | None = None
) -> EngineTensors:
    """Ask the engine for its tensors, by name, and compare them with the contract.

    Args:
        only: names of the promised outputs that it has; None is all.
    """
    inputs: list[TensorInfo] = []
    outputs: list[TensorInfo] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        sizes = tuple(int(size) for size in engine.get_tensor_shape(name))
        # The batch may be fixed in an engine, unlike in a folded model.
        shape = (_BATCH, *(size if size >= 0 else "?" for size in sizes[1:]))
        dtype = str(engine.get_tensor_dtype(name).name)
        known = _DTYPES.get(dtype)
        if known is None:
            raise FoldcamError(
                f"{where}: the tensor {name!r} is {dtype}, which foldcam cannot hand over: build "
                "the engine from the folded .onnx again."
            )
        mode = engine.get_tensor_mode(name).name
        (inputs if mode == "INPUT" else outputs).append(TensorInfo(name, known, shape))
    check_tensors(contract, inputs, outputs, where, only)
    promised = {tensor.name: tensor.shape[1:] for tensor in expected_tensors(contract)[1]}
    further = {
        tensor.name: _sizes(tensor.shape[1:], tensor.name, where)
        for tensor in further_inputs(contract)
    }
    return EngineTensors(
        image=_sizes(expected_tensors(contract)[0].shape[1:], IMAGE, where),
        outputs={
            tensor.name: _sizes(promised.get(tensor.name, tensor.shape[1:]), tensor.name, where)
            for tensor in outputs
        },
        dtypes={tensor.name: np.dtype(tensor.dtype) for tensor in (*inputs, *outputs)},
        profiles=_profiles(engine, where),
        bank={name: shape for name, shape in further.items() if name != QUERY},
        query=further.get(QUERY),
    )


def _profiles(engine: Any, where: str) -> tuple[Profile, ...]:
    fixed = int(engine.get_tensor_shape(IMAGE)[0])
    if fixed >= 0:
        return (Profile(0, fixed, fixed),)
    found = []
    for index in range(engine.num_optimization_profiles):
        shapes = engine.get_tensor_profile_shape(IMAGE, index)
        found.append(Profile(index, int(shapes[0][0]), int(shapes[2][0])))
    if not found or min(profile.largest for profile in found) < 1:
        raise FoldcamError(
            f"{where}: the engine has no optimization profile for {IMAGE!r}: build it again."
        )
    return tuple(found)


def _sizes(shape: tuple[int | str, ...], name: str, where: str) -> tuple[int, ...]:
    sizes = [size for size in shape if isinstance(size, int)]
    if len(sizes) != len(shape):
        raise FoldcamError(
            f"{where}: the size of {name!r} is open ({', '.join(map(str, shape))}) and no buffer "
            "can be made beforehand: export the model again."
        )
    return tuple(sizes)


class Graphs:
    """Whether CUDA graphs are wanted, for all contexts of an engine; why not is said once."""

    def __init__(self, wanted: bool, path: Path) -> None:
        self.wanted = wanted
        self._path = path

    def stop(self, reason: str) -> None:
        """Want none from now on, and say why."""
        if self.wanted:
            self.wanted = False
            where = printable(str(self._path))
            print(f"note: {where} runs without a CUDA graph: {printable(reason)}.", file=sys.stderr)


class Execution:
    """Copies in, network, copies out, on one stream.

    The first run at a batch size is enqueued: it settles what TensorRT puts off until
    the shapes are known, which must not be part of a graph. The second is captured, with
    its copies, and later ones are a single launch. A graph holds its context's state, so
    it goes before the context takes another batch size.
    """

    def __init__(
        self,
        engine: Any,
        tensors: EngineTensors,
        memory: CudaMemory,
        buffers: dict[str, Buffer],
        messages: Messages,
        graphs: Graphs,
        lengths: Mapping[str, int],
    ) -> None:
        self._lengths = lengths
        self._tensors = tensors
        self._memory = memory
        self._buffers = buffers
        self._messages = messages
        self._graphs = graphs
        self._graph: Any = None
        self._bare_graph: Any = None
        self._warm = False
        self._tries = 0
        self.batch = 0
        """The images of a run; 0 before `resize`."""
        messages.clear()
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise FoldcamError(f"no execution context could be made: {messages.reason()}.")
        for name, buffer in buffers.items():
            if not self._context.set_tensor_address(name, buffer.address):
                raise FoldcamError(f"the buffer of {name!r} was refused: {messages.reason()}.")

    @property
    def captured(self) -> bool:
        """Whether the next run is one launch."""
        return self._graph is not None

    def resize(self, batch: int, profile: int) -> None:
        """Take another number of images a run from now on."""
        if batch == self.batch:
            return
        self._drop_graph()
        self.batch, self._warm, self._tries = 0, False, 0
        self._messages.clear()
        if profile != self._context.active_optimization_profile:
            if not self._context.set_optimization_profile_async(profile, self._memory.stream):
                self._fail(f"refuses its optimization profile {profile}")
            self._memory.synchronize()
        shapes = {IMAGE: (batch, *self._tensors.image)}
        if self._tensors.query is not None:
            shapes[QUERY] = (batch, *self._tensors.query)
        for name, row in self._tensors.bank.items():
            shapes[name] = (self._lengths[name], *row)
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                what = f"a batch of {batch}" if name == IMAGE else f"{name!r} of {list(shape)}"
                self._fail(f"refuses {what}")
        for name, shape in self._tensors.outputs.items():
            found = tuple(int(size) for size in self._context.get_tensor_shape(name))
            if found != (batch, *shape):
                raise FoldcamError(
                    f"the output {name!r} has the shape {list(found)} where the metadata promise "
                    f"{[batch, *shape]}: build the engine from the folded .onnx again."
                )
        self.batch = batch

    def run(self) -> None:
        """One forward pass from buffer to buffer; returns when the outputs are there."""
        self._messages.clear()
        if self._warm and self._graph is None and self._graphs.wanted:
            self._graph = self._captured_work(self._enqueue)
        if self._graph is not None:
            self._memory.launch(self._graph)
        else:
            self._enqueue()
        self._memory.synchronize()
        self._warm = True

    def run_resident(self) -> None:
        """The network alone, on the images of the last `run`; the outputs stay on the GPU."""
        self._messages.clear()
        if self._warm and self._bare_graph is None and self._graphs.wanted:
            self._bare_graph = self._captured_work(self._compute)
        if self._bare_graph is not None:
            self._memory.launch(self._bare_graph)
        else:
            self._compute()
        self._memory.synchronize()

    def close(self) -> None:
        """Give graphs and context back; again does nothing."""
        self._drop_graph()
        self._context = None

    def _enqueue(self) -> None:
        self._memory.to_device(self._buffers[IMAGE], self.batch)
        if self._tensors.query is not None:
            self._memory.to_device(self._buffers[QUERY], self.batch)
        self._compute()
        for name in self._tensors.outputs:
            self._memory.to_host(self._buffers[name], self.batch)

    def _compute(self) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            self._fail(f"failed with a batch of {self.batch}")

    def _captured_work(self, work: Callable[[], None]) -> Any:
        """The graph of `work`; None where it cannot be captured, now or for good."""
        try:
            return self._memory.capture(work) if self._capturable() else None
        except FoldcamError as error:
            self._graphs.stop(str(error).rstrip("."))
            return None

    def _capturable(self) -> bool:
        """TensorRT-RTX compiles kernels behind the first runs and can be captured after that."""
        ask = getattr(self._context, "is_stream_capturable", None)
        if ask is None or ask(self._memory.stream):
            return True
        self._tries += 1
        if self._tries == _TRIES:
            raise FoldcamError(f"TensorRT cannot be captured after {_TRIES} runs.")
        return False

    def _drop_graph(self) -> None:
        graphs = self._graph, self._bare_graph
        self._graph = self._bare_graph = None
        for graph in graphs:
            if graph is not None:
                self._memory.release(graph)

    def _fail(self, what: str) -> None:
        raise FoldcamError(f"TensorRT {what}: {self._messages.reason()}.")
