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
from foldcam.runtime.backends.interface import TakesBank as TakesBank
from foldcam.runtime.backends.interface import dtype_of as dtype_of
from foldcam.runtime.contract.bank.bank_file import read_bank
from foldcam.runtime.contract.bank.live_bank import LiveBank, bank_path
from foldcam.runtime.system.errors import FoldcamError

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
    accept_wrong: bool = False,
    server: str | None = None,
) -> Backend:
    """Load a folded model, or an engine of one, into the library that is to run it.

    Where the contract holds probe pictures, the library is shown them the first time that it opens
    the file on this machine.

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
        accept_wrong: whether a library that answers the probe pictures wrongly is used; that is
            said on standard error each time.
        server: the address of the model on an inference server that runs it, such as
            `http://host:8000/birds`; no library, provider, threads or graph is chosen then.

    Raises:
        FoldcamError: the library answers wrongly (then a
            `runtime.engine.canary.check.WrongAnswersError`), not a folded model, its tensors are
            not those promised, the library is missing or refuses the file, the engine does not
            fit, the provider is unavailable, the bank beside the model cannot be used, or the
            server is away or runs another model.
    """
    path = Path(path)
    if server is not None:
        chosen = [each for each in (library, threads, cuda_graph) if each is not None]
        if chosen or provider != "auto" or build:
            raise FoldcamError(
                "A server runs the model in its own way: leave out --backend, --provider, "
                "--threads, --cuda-graph and --build, or --server."
            )
        from foldcam.runtime.backends.choice import is_engine
        from foldcam.runtime.backends.kserve.backend import KServeBackend
        from foldcam.runtime.engine.canary.check import checked

        if is_engine(path):
            raise FoldcamError(f"{path} is an engine, and --server needs the .onnx that is served.")
        return checked(KServeBackend(path, server), path, accept_wrong=accept_wrong, served=True)
    if provider not in PROVIDERS:
        raise FoldcamError(f"{provider!r} is no provider: use one of {', '.join(PROVIDERS)}.")
    if library is not None and library not in LIBRARIES:
        raise FoldcamError(f"{library!r} is no backend: use one of {', '.join(LIBRARIES)}.")
    if threads is not None and threads < 1:
        raise FoldcamError(f"threads is {threads}: give at least 1.")
    from foldcam.runtime.backends.choice import open_named

    backend = open_named(path, library, provider, threads, cuda_graph, build, line, accept_wrong)
    if backend.contract.bank_input is not None:
        try:
            use_bank(backend, bank_path(path))
        except BaseException:
            backend.close()
            raise
    return backend


def use_bank(backend: Backend, bank: LiveBank | Path | str) -> None:
    """Let a backend answer by a bank from now on.

    Raises:
        FoldcamError: the file cannot be read, or is the bank of another network, or the model's
            bank is no input; the backend answers as before then.
    """
    if backend.contract.bank_input is None:
        raise FoldcamError(
            "The model's bank is a part of its graph and cannot be changed: fold it again with "
            "--bank-input."
        )
    if not isinstance(backend, TakesBank):
        raise FoldcamError(
            f"{backend.name} takes no bank as an input: fold the model again without --bank-input."
        )
    name = "The bank" if isinstance(bank, LiveBank) else str(bank)
    if not isinstance(bank, LiveBank):
        bank = read_bank(Path(bank))
    bank.check(backend.contract, name)
    backend.use_bank(bank, backend.contract.with_bank(bank.labels, bank.sha256))
