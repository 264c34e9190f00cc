"""One stream and the buffers of one engine: pinned on the host, beside their twins on the GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foldcam.runtime.backends.cuda import CudaBindings, CudaDevice, CudaError, find_cuda
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.runtime.backends.interface import Array


@dataclass(frozen=True, eq=False)
class Buffer:
    """A tensor in both memories, for up to as many rows as `host` has.

    Attributes:
        host: a view of pinned memory, batch first; gone once the memory is closed.
    """

    name: str
    host: Array
    handle: Any
    address: int


class CudaMemory:
    """A stream and everything allocated for it.

    Args:
        cuda: the library; found by itself where None.
    """

    def __init__(self, cuda: CudaBindings | None = None) -> None:
        self._cuda: CudaBindings = find_cuda() if cuda is None else cuda
        self._free: list[Callable[[], None]] = []
        with self._cuda.current():
            self._stream: Any = self._cuda.stream_create()
        self._free.append(lambda: self._cuda.stream_destroy(self._stream))

    @property
    def name(self) -> str:
        """The CUDA library and its version."""
        return self._cuda.name

    @property
    def stream(self) -> int:
        """The stream as TensorRT takes it."""
        return self._cuda.address(self._stream)

    @property
    def why_no_graphs(self) -> str:
        """Empty where CUDA graphs can be captured."""
        return self._cuda.why_no_graphs

    def device(self) -> CudaDevice:
        """The facts of the GPU."""
        with self._cuda.current():
            return self._cuda.device()

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU current in this thread for a block: TensorRT's calls need it too."""
        return self._cuda.current()

    def buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """Allocate a tensor in both memories; its host side starts as zeros."""
        size = max(1, math.prod(shape) * dtype.itemsize)
        try:
            pinned, view = self._cuda.host_alloc(size)
            self._free.append(lambda: self._cuda.host_free(pinned))
            handle = self._cuda.device_alloc(size)
            self._free.append(lambda: self._cuda.device_free(handle))
        except CudaError as error:
            if not error.out_of_memory:
                raise
            raise FoldcamError(
                f"Not enough memory for {size / 1e6:.1f} MB of {name!r} with a batch of {shape[0]} "
                f"({error.name}{self._free_text()}): close other programs, or build the engine "
                "for a smaller batch."
            ) from error
        view[:] = 0
        host = view[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        return Buffer(name, host, handle, self._cuda.address(handle))

    def to_device(self, buffer: Buffer, rows: int) -> None:
        """Start copying the first rows from the host."""
        self._cuda.copy_to_device(buffer.handle, _bytes(buffer, rows), self._stream)

    def to_host(self, buffer: Buffer, rows: int) -> None:
        """Start copying the first rows to the host."""
        self._cuda.copy_to_host(_bytes(buffer, rows), buffer.handle, self._stream)

    def synchronize(self) -> None:
        """Wait for the stream; errors of what ran on it surface here."""
        self._cuda.stream_synchronize(self._stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """Record what `work` puts on the stream, without running it."""
        self._cuda.capture_begin(self._stream)
        try:
            work()
        except BaseException:
            self._cuda.capture_abandon(self._stream)
            raise
        try:
            return self._cuda.capture_end(self._stream)
        except CudaError:
            self._cuda.capture_abandon(self._stream)
            raise

    def launch(self, graph: Any) -> None:
        """Run a graph on the stream."""
        self._cuda.graph_launch(graph, self._stream)

    def release(self, graph: Any) -> None:
        """Give a graph back."""
        self._cuda.graph_destroy(graph)

    def close(self) -> None:
        """Give everything back, newest first; again does nothing."""
        free, self._free = self._free, []
        with self._cuda.current():
            for give_back in reversed(free):
                try:
                    give_back()
                except CudaError:
                    # After a failed kernel every call fails; the rest is tried all the same.
                    continue

    def _free_text(self) -> str:
        try:
            device = self._cuda.device()
        except CudaError:
            return ""
        return f"; {device.free_bytes / 1e6:.0f} of {device.total_bytes / 1e6:.0f} MB are free"


def _bytes(buffer: Buffer, rows: int) -> Any:
    # The buffer is contiguous and batch first, so its first rows are its first bytes.
    return buffer.host[:rows].reshape(-1).view(np.uint8)
