"""ONNX Runtime, on the CPU, with CUDA, or with TensorRT behind it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from foldcam.runtime.backends.ort_binding import BoundSession
from foldcam.runtime.backends.ort_providers import CPU, CUDA, TENSORRT, Choice, choose
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import IMAGE, QUERY, Contract
from foldcam.runtime.contract.tensors import check_tensors, expected_tensors
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, reason_of

if TYPE_CHECKING:
    from foldcam.runtime.backends.interface import Array, Provider
    from foldcam.runtime.contract.bank.live_bank import LiveBank

_FATAL = 4
_TITLES = {CUDA: "CUDA", TENSORRT: "TensorRT"}


class OnnxRuntimeBackend:
    """A folded model in ONNX Runtime.

    Only plain ONNX is loaded: no ORT-format file, no custom-operator library, since
    both can make the process run what the user did not name. On a GPU the tensors are
    bound to memory that is allocated once per batch size.

    Args:
        provider: `auto` takes CUDA where it works and the CPU otherwise; `tensorrt` is ONNX
            Runtime's own TensorRT, which builds engines by itself and keeps them in
            the user's cache; `rtx` is its plugin for TensorRT-RTX, where that is installed.
        threads: for one operator on the CPU; None leaves it to ONNX Runtime.
        cuda_graph: whether runs on a GPU are captured and replayed. Where the model
            cannot be captured, that is said, and it runs without.
        aloud: whether to say that there is no CUDA, where it might have been expected.
    """

    accepted_wrong: str | None = None
    """What of the answers to the probe pictures is wrong and was accepted; else None."""

    def __init__(
        self,
        path: Path,
        provider: Provider,
        threads: int | None,
        cuda_graph: bool = False,
        aloud: bool = False,
    ) -> None:
        # The small reader goes first: what it refuses never reaches the C++ parser.
        self.contract = read_contract(path)
        header = read_header(path)
        check_tensors(self.contract, header.inputs, header.outputs, str(path))
        self._onnxruntime = _import()
        self._path = path
        self._provider: Provider = provider
        self._threads = threads
        self.name = f"onnxruntime {self._onnxruntime.__version__}"
        self._outputs = [tensor.name for tensor in header.outputs]
        self._session: Any = None
        self.bank: LiveBank | None = None
        self._bound: BoundSession | None = None
        self._graph = cuda_graph
        self._open()
        if aloud and CUDA not in self._onnxruntime.get_available_providers():
            print("note: this onnxruntime has no CUDA; running on the CPU.", file=sys.stderr)

    def use_bank(self, bank: LiveBank, contract: Contract) -> None:
        """Answer by a bank; see `runtime.backends.TakesBank`."""
        if self._bound is not None:
            self._bound.use_bank(bank.inputs)  # first: there may be no memory for it
        self.contract, self.bank = contract, bank

    def run(self, images: Array) -> dict[str, Array]:
        """One forward pass; see `runtime.backends.Backend.run`."""
        inputs = {IMAGE: images}
        if self.contract.query:
            size = self.contract.bank.embedding_size
            inputs[QUERY] = np.zeros((len(images), size), np.float32)
        return self._tried(inputs)

    def run_query(self, images: Array, query: Array) -> dict[str, Array]:
        """One forward pass; see `runtime.backends.TakesBank`."""
        return self._tried({IMAGE: images, QUERY: query})

    def _tried(self, inputs: dict[str, Array]) -> dict[str, Array]:
        if self._session is None:
            raise FoldcamError(f"{self._path} was closed.")
        try:
            return self._run(inputs)
        except MemoryError:
            raise
        except Exception as error:
            if not self._graph:
                raise self._failure(len(inputs[IMAGE]), error) from error
            reason = reason_of(error)
        self._without_graph(reason)
        return self._tried(inputs)

    def run_resident(self, rows: int) -> None:
        """The network alone on `rows` images of the last `run`; see `runtime.backends.Resident`."""
        if self._bound is None:
            raise FoldcamError(f"{self._path} runs on the {self.device}, where nothing is copied.")
        most = self._choice.max_batch or rows
        try:
            for start in range(0, rows, most):
                self._bound.run_resident(min(most, rows - start))
        except MemoryError:
            raise
        except Exception as error:
            raise self._failure(rows, error) from error

    def close(self) -> None:
        """Free the session."""
        self._bound = None
        self._session = None

    def _run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        most, images = self._choice.max_batch, inputs[IMAGE]
        if most is None or len(images) <= most:
            return self._run_some(inputs)
        starts = range(0, len(images), most)
        parts = [
            self._run_some({name: array[start : start + most] for name, array in inputs.items()})
            for start in starts
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run_some(self, inputs: dict[str, Array]) -> dict[str, Array]:
        if self._bound is not None:
            return self._bound.run(inputs)
        bank = {} if self.bank is None else self.bank.inputs
        values = self._session.run(self._outputs, {**inputs, **bank})
        return dict(zip(self._outputs, values, strict=True))

    def _failure(self, rows: int, error: Exception) -> FoldcamError:
        return FoldcamError(
            f"{self._path} failed in {self.name} on {self.device} with a batch of {rows}: "
            f"{reason_of(error)}."
        )

    def _without_graph(self, reason: str) -> None:
        print(
            f"note: {printable(str(self._path))} runs without a CUDA graph: {reason}.",
            file=sys.stderr,
        )
        self._graph = False
        self._bound = self._session = None
        self._open()

    def _open(self) -> None:
        onnxruntime, path = self._onnxruntime, self._path
        choice = choose(onnxruntime, self._provider, path, self.contract, self._graph)
        try:
            session = self._new_session(choice)
        except MemoryError:
            raise
        except Exception as error:
            if self._graph and choice.first != CPU:
                self._without_graph(reason_of(error))
                return
            raise FoldcamError(
                f"{path} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: "
                f"{reason_of(error)}."
            ) from error
        started: list[str] = session.get_providers()
        if choice.first not in started:
            title = _TITLES.get(choice.first, "TensorRT-RTX")
            problem = (
                f"{title} is in this onnxruntime but could not be started (driver, CUDA, cuDNN"
                f"{' or TensorRT' if choice.first == TENSORRT else ''})"
            )
            if self._provider != "auto":
                raise FoldcamError(f"{problem}: see `runtime doctor`, or use --provider cpu.")
            print(f"note: {problem}; running on the CPU.", file=sys.stderr)
            choice = Choice("cpu", [(CPU, {})])
        self._choice = choice
        self.device = choice.device
        self._session = session
        if choice.first == CPU:
            self._graph = False
        if choice.first == CPU or choice.plugin_devices:
            # A plugin's memory is its own: what is given to it is copied by ONNX Runtime.
            return
        promised = {tensor.name for tensor in expected_tensors(self.contract)[1]}
        extra = [name for name in self._outputs if name not in promised]
        self._bound = BoundSession(onnxruntime, session, self.contract, extra, self._graph)
        if self.bank is not None:
            self._bound.use_bank(self.bank.inputs)

    def _new_session(self, choice: Choice) -> Any:
        options = self._onnxruntime.SessionOptions()
        # Its own log would repeat, in several lines, what the exception says.
        options.log_severity_level = _FATAL
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
            options.inter_op_num_threads = 1
        names = [name for name, _ in choice.providers]
        settings = [setting for _, setting in choice.providers]
        if choice.plugin_devices:
            # What the plugin does not take is left to the CPU.
            options.add_provider_for_devices(list(choice.plugin_devices), settings[0])
            session = self._onnxruntime.InferenceSession(str(self._path), options)
        else:
            session = self._onnxruntime.InferenceSession(
                str(self._path), options, providers=names, provider_options=settings
            )
        # It would turn to the CPU by itself in the midst of a run, and nobody would know.
        session.disable_fallback()
        return session


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
            f"ONNX Runtime is installed but cannot be imported: {reason_of(error)}."
        ) from error
    module: ModuleType = onnxruntime
    return module
