"""What runs a folded model: one small interface, one module per library."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from runtime.contract import Contract
from runtime.errors import FoldcamError

Provider = Literal["auto", "cpu", "cuda"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
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


def open_backend(
    path: Path | str, provider: Provider = "auto", threads: int | None = None
) -> Backend:
    """Load a folded model into the library that fits its file.

    Args:
        path: a folded `.onnx`.
        provider: `auto` takes CUDA where it works and the CPU otherwise.
        threads: on the CPU; None leaves it to the library.

    Raises:
        FoldcamError: not a folded model, its tensors are not those promised, the
            library is missing or refuses the file, or the provider is unavailable.
    """
    path = Path(path)
    if provider not in PROVIDERS:
        raise FoldcamError(f"{provider!r} is no provider: use one of {', '.join(PROVIDERS)}.")
    if threads is not None and threads < 1:
        raise FoldcamError(f"threads is {threads}: give at least 1.")
    if path.suffix.lower() in (".engine", ".plan", ".trt"):
        raise FoldcamError(
            f"{path} is a TensorRT engine, which this version does not run: give the folded .onnx."
        )
    from runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, provider, threads)


def dtype_of(contract: Contract) -> np.dtype[Any]:
    """dtype of the model's input."""
    return np.dtype(contract.input_type)
