"""What runs a folded model: one small interface, one module per library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foldcam.runtime.backends.interface import LIBRARIES as LIBRARIES
from foldcam.runtime.backends.interface import PROVIDERS as PROVIDERS
from foldcam.runtime.backends.interface import Array as Array
from foldcam.runtime.backends.interface import Backend as Backend
from foldcam.runtime.backends.interface import Library as Library
from foldcam.runtime.backends.interface import Provider as Provider
from foldcam.runtime.backends.interface import Resident as Resident
from foldcam.runtime.backends.interface import dtype_of as dtype_of
from foldcam.runtime.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.runtime.engine.progress import BuildLine


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
