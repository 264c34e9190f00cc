"""TensorRT: an engine that preflight has let through."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldcam.runtime.backends.cuda.memory import Buffer, CudaMemory
from foldcam.runtime.backends.tensorrt.execution import Execution, Graphs, read_tensors
from foldcam.runtime.backends.tensorrt.messages import Messages, error_recorder
from foldcam.runtime.contract.schema import IMAGE, QUERY, Contract
from foldcam.runtime.contract.tensors import bank_lengths
from foldcam.runtime.engine.flavours import Flavour
from foldcam.runtime.engine.log import OwnedLogger
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.runtime.backends.interface import Array
    from foldcam.runtime.contract.bank.live_bank import LiveBank

_MAX_CONTEXTS = 4
# Until 10 an optimization profile serves one context at a time.
_SHARED_PROFILES_SINCE = 10


@dataclass(frozen=True, eq=False)
class CheckedPlan:
    """A plan whose very bytes preflight has compared with its manifest.

    Attributes:
        outputs: the outputs that it has of those that are promised; None is all.
    """

    path: Path
    data: bytes
    contract: Contract
    outputs: tuple[str, ...] | None = None


class TensorRTBackend:
    """A folded model in TensorRT: one stream, buffers made once, a CUDA graph per batch size.

    An array given to `run` is copied into pinned memory and no further on the host; what
    `run` returns is the caller's own. Batches larger than the engine's are split. Calls
    from several threads take turns.

    Args:
        library: the TensorRT to use.
        memory: of this engine alone; closed with the backend, also where this fails.
    """

    accepted_wrong: str | None = None
    """What of the answers to the probe pictures is wrong and was accepted; else None."""

    def __init__(
        self,
        plan: CheckedPlan,
        library: Flavour,
        logger: OwnedLogger,
        memory: CudaMemory,
        cuda_graph: bool = True,
    ) -> None:
        self._path = plan.path
        self.contract = plan.contract
        self.bank: LiveBank | None = None
        self._most = {name: most for name, (_, _, most) in bank_lengths(plan.contract).items()}
        # What it is checked with, before there is a bank.
        self._lengths = {name: least for name, (least, _, _) in bank_lengths(plan.contract).items()}
        self.name = library.title
        self._lock = threading.Lock()
        self._memory: CudaMemory | None = memory
        self._runtime: Any = None
        self._engine: Any = None
        self._executions: OrderedDict[int, Execution] = OrderedDict()
        self._graphs = Graphs(cuda_graph, plan.path)
        if memory.why_no_graphs:
            self._graphs.stop(memory.why_no_graphs)
        shared = library.rtx or library.release[:1] >= (_SHARED_PROFILES_SINCE,)
        self._contexts = _MAX_CONTEXTS if shared else 1
        self._messages = Messages(logger.messages)
        try:
            with memory.current():
                self.device = f"cuda ({memory.device().name})"
                self._deserialize(plan.data, library.module, logger.handle)
                self._tensors = read_tensors(
                    self._engine, self.contract, str(self._path), plan.outputs
                )
                self._buffers = self._make_buffers(memory)
                # Made and checked now: what cannot run is better said before a camera opens.
                try:
                    self._execution(memory, 1)
                except FoldcamError as error:
                    raise FoldcamError(
                        f"{self._path} cannot be run by {self.name}: {error}"
                    ) from error
        except BaseException:
            self.close()
            raise

    def use_bank(self, bank: LiveBank, contract: Contract) -> None:
        """Answer by a bank; see `runtime.backends.TakesBank`."""
        with self._lock:
            memory = self._open_memory()
            with memory.current():
                self._drop_executions()
                for name, array in bank.inputs.items():
                    self._buffers[name].host[: len(array)] = array
                    memory.to_device(self._buffers[name], len(array))
                memory.synchronize()
            self._lengths = {name: len(array) for name, array in bank.inputs.items()}
            self.bank, self.contract = bank, contract

    def run(self, images: Array) -> dict[str, Array]:
        """One forward pass; see `runtime.backends.Backend.run`."""
        return self._run(images, None)

    def run_query(self, images: Array, query: Array) -> dict[str, Array]:
        """One forward pass; see `runtime.backends.TakesBank`."""
        return self._run(images, query)

    def _run(self, images: Array, query: Array | None) -> dict[str, Array]:
        with self._lock:
            memory = self._open_memory()
            self._check_images(images)
            outputs = {
                name: np.empty((len(images), *shape), self._tensors.dtypes[name])
                for name, shape in self._tensors.outputs.items()
            }
            try:
                with memory.current():
                    for start in range(0, len(images), self._tensors.largest_batch):
                        end = min(start + self._tensors.largest_batch, len(images))
                        asked = None if query is None else query[start:end]
                        self._run_chunk(memory, images[start:end], asked)
                        for name, output in outputs.items():
                            output[start:end] = self._buffers[name].host[: end - start]
            except FoldcamError as error:
                raise FoldcamError(
                    f"{self._path} failed in {self.name} with a batch of {len(images)}: {error}"
                ) from error
            return outputs

    def run_resident(self, rows: int) -> None:
        """The network alone on `rows` images of the last `run`; see `runtime.backends.Resident`."""
        with self._lock:
            memory = self._open_memory()
            try:
                with memory.current():
                    most = self._tensors.largest_batch
                    for start in range(0, rows, most):
                        self._execution(memory, min(most, rows - start)).run_resident()
            except FoldcamError as error:
                raise FoldcamError(
                    f"{self._path} failed in {self.name} with a batch of {rows}: {error}"
                ) from error

    def close(self) -> None:
        """Free graphs, contexts, engine, runtime, buffers and stream, in this order."""
        with self._lock:
            memory, self._memory = self._memory, None
            if memory is None:
                return
            try:
                with memory.current():
                    with suppress(FoldcamError):  # told of when it failed
                        memory.synchronize()
                    self._drop_executions()
                    self._engine = None
                    self._runtime = None
                    self._buffers = {}
            finally:
                memory.close()

    def _open_memory(self) -> CudaMemory:
        if self._memory is None:
            raise FoldcamError(f"{self._path} was closed.")
        return self._memory

    def _deserialize(self, plan: bytes, trt: Any, handle: Any) -> None:
        self._runtime = trt.Runtime(handle)
        if self._runtime is None:
            raise FoldcamError(f"{self.name} could not start: {self._messages.reason()}.")
        # An engine may bring host code to run; ours never do, so the door stays shut.
        if hasattr(self._runtime, "engine_host_code_allowed"):
            self._runtime.engine_host_code_allowed = False
        if hasattr(self._runtime, "error_recorder"):
            recorder = error_recorder(trt, self._messages)
            if recorder is not None:
                self._runtime.error_recorder = recorder
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise FoldcamError(
                f"{self._path} cannot be loaded by {self.name}: {self._messages.reason()}."
            )

    def _make_buffers(self, memory: CudaMemory) -> dict[str, Buffer]:
        tensors, rows = self._tensors, self._tensors.largest_batch
        shapes: dict[str, tuple[int, ...]] = {IMAGE: tensors.image, **tensors.outputs}
        if tensors.query is not None:
            shapes[QUERY] = tensors.query
        whole = {name: (rows, *shape) for name, shape in shapes.items()}
        whole |= {name: (self._most[name], *row) for name, row in tensors.bank.items()}
        return {
            name: memory.buffer(name, shape, tensors.dtypes[name]) for name, shape in whole.items()
        }

    def _execution(self, memory: CudaMemory, rows: int) -> Execution:
        """The context for a batch size: one of its own, or the one that rested longest.

        One context per captured graph, because a graph does not survive a change of its
        context; without graphs a single one is enough.
        """
        profile = self._tensors.profile_for(rows)
        batch = profile.batch_for(rows)
        execution = self._executions.pop(batch, None)
        if execution is None:
            most = self._contexts if self._graphs.wanted else 1
            execution = self._rested() if len(self._executions) >= most else self._new(memory)
        try:
            execution.resize(batch, profile.index)
        except FoldcamError:
            execution.close()
            raise
        self._executions[batch] = execution
        return execution

    def _new(self, memory: CudaMemory) -> Execution:
        tensors, buffers, messages = self._tensors, self._buffers, self._messages
        try:
            return Execution(
                self._engine, tensors, memory, buffers, messages, self._graphs, self._lengths
            )
        except FoldcamError:
            if not self._executions:
                raise
        # No memory for one more: from now on those that are there change their batch size.
        self._contexts = len(self._executions)
        return self._rested()

    def _drop_executions(self) -> None:
        for execution in self._executions.values():
            execution.close()
        self._executions.clear()

    def _rested(self) -> Execution:
        return self._executions.popitem(last=False)[1]

    def _run_chunk(self, memory: CudaMemory, images: Array, query: Array | None) -> None:
        execution = self._execution(memory, len(images))
        host = self._buffers[IMAGE].host
        host[: len(images)] = images
        # What an earlier batch left there would be computed again, and might be NaN.
        host[len(images) : execution.batch] = 0
        if self._tensors.query is not None:
            # Zeros ask the bank.
            asked = self._buffers[QUERY].host
            asked[: execution.batch] = 0
            if query is not None:
                asked[: len(query)] = query
        execution.run()

    def _check_images(self, images: Array) -> None:
        shape, dtype = self._tensors.image, self._tensors.dtypes[IMAGE]
        if images.shape[1:] != shape or images.dtype != dtype:
            raise FoldcamError(
                f"The images are {images.dtype} {list(images.shape)} where {self._path} takes "
                f"{dtype} {['N', *shape]}."
            )
