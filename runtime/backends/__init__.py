"""What runs a folded model: one small interface, one module per library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.runtime.engine.progress import BuildLine

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
Library = Literal["auto", "tensorrt", "onnxruntime"]
LIBRARIES: tuple[Library, ...] = get_args(Library)
Array = npt.NDArray[Any]


class Backend(Protocol):
    """A loaded folded model."""

    @property
    def name(self) -> str:
        """The library and its version, such as `onnxruntime 1.22`."""
        ...

    @property
    def device(self) -> str:
        """What it runs on, such as `cpu` or `cuda`."""
        ...

    @property
    def contract(self) -> Contract:
        """What the model promises; its tensors were checked against it."""
        ...

    def run(self, images: Array) -> dict[str, Array]:
        """One forward pass.

        Args:
            images: as the contract's `image`: `float32 [N,3,H,W]` or `uint8 [N,H,W,3]`.

        Returns:
            Every output of the model by name, batch first.

        Raises:
            FoldcamError: the library failed, for example for lack of memory.
        """
        ...

    def close(self) -> None:
        """Give memory and device back."""
        ...


@runtime_checkable
class Resident(Protocol):
    """A backend that can leave out its copies to and from a GPU, to be timed without them."""

    def run_resident(self, rows: int) -> None:
        """One forward pass over images that the last `run` left on the GPU.

        Args:
            rows: as many as that run had.

        Raises:
            FoldcamError: it runs on the CPU, or the library failed.
        """
        ...


def open_backend(
    path: Path | str,
    provider: Provider = "auto",
    threads: int | None = None,
    *,
    library: Library | None = None,
    cuda_graph: bool | None = None,
    build: bool = False,
    line: BuildLine | None = None,
) -> Backend:
    """Load a folded model, or an engine of one, into the library that is to run it.

    Args:
        path: a folded `.onnx` or an engine (`.engine`, `.plan`, `.trt`).
        provider: what ONNX Runtime computes on: `auto` takes CUDA where it works and the
            CPU otherwise.
        threads: on the CPU; None leaves it to the library.
        library: None takes TensorRT for an engine and ONNX Runtime for an `.onnx`.
            `tensorrt` runs an `.onnx` by the engine beside it. `auto` tries TensorRT, then
            CUDA, then the CPU, and says each step down on standard error.
        cuda_graph: whether runs on a GPU are captured and replayed; None does so in
            TensorRT alone. Where it cannot be done, that is said on standard error.
        build: whether a missing engine may be built, which takes minutes.
        line: where the progress of a build is shown.

    Raises:
        FoldcamError: not a folded model, its tensors are not those promised, the
            library is missing or refuses the file, the engine does not fit, or the
            provider is unavailable.
    """
    path = Path(path)
    if provider not in PROVIDERS:
        raise FoldcamError(f"{provider!r} is no provider: use one of {', '.join(PROVIDERS)}.")
    if library is not None and library not in LIBRARIES:
        raise FoldcamError(f"{library!r} is no backend: use one of {', '.join(LIBRARIES)}.")
    if threads is not None and threads < 1:
        raise FoldcamError(f"threads is {threads}: give at least 1.")
    from foldcam.runtime.backends.choice import open_named

    return open_named(path, library, provider, threads, cuda_graph, build, line)


def dtype_of(contract: Contract) -> np.dtype[Any]:
    """dtype of the model's input."""
    return np.dtype(contract.input_type)
