"""ONNX Runtime, on the CPU or with CUDA."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from runtime.backends.tensors import check_tensors
from runtime.contract import IMAGE, Contract
from runtime.errors import FoldcamError
from runtime.onnx_file import read_contract, read_header
from runtime.text import printable, shorten

if TYPE_CHECKING:
    from runtime.backends import Array, Provider

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_FATAL = 4


class OnnxRuntimeBackend:
    """A folded model in ONNX Runtime.

    Only plain ONNX is loaded: no ORT-format file, no custom-operator library, since
    both can make the process run what the user did not name.

    Args:
        path: the folded `.onnx`.
        provider: `auto`, `cpu` or `cuda`.
        threads: for one operator on the CPU; None leaves it to ONNX Runtime.

    Raises:
        FoldcamError: as `runtime.backends.open_backend`.
    """

    def __init__(self, path: Path, provider: Provider, threads: int | None) -> None:
        # The small reader goes first: what it refuses never reaches the C++ parser.
        self._contract = read_contract(path)
        header = read_header(path)
        check_tensors(self._contract, header.inputs, header.outputs, str(path))
        onnxruntime = _import()
        wanted = _choose(onnxruntime, provider)
        options = onnxruntime.SessionOptions()
        # Its own log would repeat, in several lines, what the exception says.
        options.log_severity_level = _FATAL
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except MemoryError:
            raise
        except Exception as error:
            raise FoldcamError(
                f"{path} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: "
                f"{_reason(error)}."
            ) from error
        if wanted[0] == _CUDA and _CUDA not in session.get_providers():
            problem = "CUDA is in this onnxruntime but could not be started (driver, CUDA or cuDNN)"
            if provider == "cuda":
                raise FoldcamError(f"{problem}: see `runtime doctor`, or use --provider cpu.")
            print(f"note: {problem}; running on the CPU.", file=sys.stderr)
        self._device = "cuda" if _CUDA in session.get_providers() else "cpu"
        self._name = f"onnxruntime {onnxruntime.__version__}"
        self._path = path
        self._outputs = [tensor.name for tensor in header.outputs]
        self._session: Any = session

    @property
    def name(self) -> str:
        """`onnxruntime` and its version."""
        return self._name

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self._device

    @property
    def contract(self) -> Contract:
        """What the model promises."""
        return self._contract

    def run(self, images: Array) -> dict[str, Array]:
        """One forward pass; see `runtime.backends.Backend.run`."""
        if self._session is None:
            raise FoldcamError(f"{self._path} was closed.")
        try:
            values = self._session.run(self._outputs, {IMAGE: images})
        except MemoryError:
            raise
        except Exception as error:
            raise FoldcamError(
                f"{self._path} failed in {self._name} on {self._device} with a batch of "
                f"{len(images)}: {_reason(error)}."
            ) from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _import() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise FoldcamError(
                "ONNX Runtime is not installed: pip install 'foldcam[cpu]' "
                "(or 'foldcam[gpu]' for CUDA)."
            ) from error
        raise FoldcamError(
            f"ONNX Runtime is installed but cannot be imported: {_reason(error)}."
        ) from error
    module: ModuleType = onnxruntime
    return module


def _choose(onnxruntime: ModuleType, provider: Provider) -> list[str]:
    available: list[str] = onnxruntime.get_available_providers()
    if provider == "cuda" and _CUDA not in available:
        raise FoldcamError(
            "This onnxruntime has no CUDA: pip install 'foldcam[gpu]', or use --provider cpu."
        )
    if provider != "cpu" and _CUDA in available:
        return [_CUDA, _CPU]
    return [_CPU]


def _reason(error: Exception) -> str:
    """The first line of an exception's text, in the form of a clause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(shorten(lines[0] if lines else type(error).__name__, 300)).rstrip(".")
