"""The CUDA calls that foldcam needs, as one narrow surface over every library that has them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from foldcam.runtime.system.errors import FoldcamError

Bytes = npt.NDArray[np.uint8]
NON_BLOCKING = 1
"""Of a stream: it does not wait for the default one."""
_OUT_OF_MEMORY = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")


class CudaError(FoldcamError):
    """A CUDA call failed.

    Attributes:
        name: the error's name in CUDA, such as `cudaErrorMemoryAllocation`.
    """

    def __init__(self, call: str, name: str, text: str) -> None:
        self.name = name
        self.call = call
        detail = f", {text}" if text else ""
        super().__init__(f"CUDA failed in {call} ({name}{detail}): see `runtime doctor`.")

    @property
    def out_of_memory(self) -> bool:
        """Whether there was not enough memory."""
        return self.name in _OUT_OF_MEMORY


@dataclass(frozen=True)
class CudaDevice:
    """The GPU in use, which is always the first that the process may see.

    Attributes:
        name: such as `Orin`.
        compute_capability: `(major, minor)`.
    """

    name: str
    compute_capability: tuple[int, int]
    free_bytes: int
    total_bytes: int


class CudaBindings(Protocol):
    """What foldcam asks of a CUDA library. Every method may raise CudaError.

    Handles are opaque, but for streams and device memory, whose `address` is the
    integer that TensorRT takes.
    """

    name: str
    why_no_graphs: str
    """Empty where CUDA graphs can be captured."""

    def current(self) -> AbstractContextManager[None]:
        """Make the device current in this thread for a block; every other call needs it."""

    def device(self) -> CudaDevice:
        """The facts of the device."""

    def stream_create(self) -> Any:
        """A stream that does not wait for the default one."""

    def stream_synchronize(self, stream: Any) -> None:
        """Wait for everything on the stream."""

    def stream_destroy(self, stream: Any) -> None:
        """Give the stream back."""

    def address(self, handle: Any) -> int:
        """Of a stream or of device memory."""

    def host_alloc(self, size: int) -> tuple[Any, Bytes]:
        """`size` bytes of pinned memory: a handle and a view that must not outlive it."""

    def host_free(self, handle: Any) -> None:
        """Give pinned memory back."""

    def device_alloc(self, size: int) -> Any:
        """`size` bytes on the device."""

    def device_free(self, handle: Any) -> None:
        """Give device memory back."""

    def copy_to_device(self, target: Any, source: Bytes, stream: Any) -> None:
        """Start copying pinned bytes to device memory."""

    def copy_to_host(self, target: Bytes, source: Any, stream: Any) -> None:
        """Start copying device memory to pinned bytes."""

    def capture_begin(self, stream: Any) -> None:
        """Record what is put on the stream in place of running it."""

    def capture_end(self, stream: Any) -> Any:
        """An executable graph of what was recorded."""

    def capture_abandon(self, stream: Any) -> None:
        """Leave the recording, whatever state it is in; never raises."""

    def graph_launch(self, graph: Any, stream: Any) -> None:
        """Run a graph on the stream."""

    def graph_destroy(self, graph: Any) -> None:
        """Give a graph back."""
