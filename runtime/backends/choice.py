"""Which library runs a file: what the user named, or the fastest that works here."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from foldcam.runtime.engine import ENGINE_SUFFIXES
from foldcam.runtime.engine.canary.check import checked
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable

if TYPE_CHECKING:
    from foldcam.runtime.backends.interface import Backend, Library, Provider
    from foldcam.runtime.engine.progress import BuildLine


def is_engine(path: Path) -> bool:
    """Whether a file's name says that it is an engine."""
    return path.suffix.lower() in ENGINE_SUFFIXES


def open_named(
    path: Path,
    library: Library | None,
    provider: Provider,
    threads: int | None,
    cuda_graph: bool | None,
    build: bool,
    line: BuildLine | None,
    accept_wrong: bool,
) -> Backend:
    """The backend for a file; see `runtime.backends.open_backend`."""

    def in_onnxruntime(model: Path, aloud: bool = False) -> Backend:
        from foldcam.runtime.backends.onnxruntime import OnnxRuntimeBackend

        # Not unless asked: ONNX Runtime can capture only what lies on the GPU as a whole.
        backend = OnnxRuntimeBackend(model, provider, threads, bool(cuda_graph), aloud)
        return checked(backend, model, accept_wrong=accept_wrong)

    def in_tensorrt() -> Backend:
        from foldcam.runtime.backends.tensorrt.opening import engine_for, open_engine

        graph = cuda_graph is not False
        if is_engine(path):
            return open_engine(path, cuda_graph=graph, accept_wrong=accept_wrong)
        engine = engine_for(path, build, line, accept_wrong=accept_wrong)
        return open_engine(engine, model=path, cuda_graph=graph, accept_wrong=accept_wrong)

    wanted = library or ("tensorrt" if is_engine(path) else "onnxruntime")
    _check_usage(path, wanted, provider)
    if wanted == "onnxruntime":
        return in_onnxruntime(path)
    try:
        return in_tensorrt()
    except FoldcamError as error:
        if wanted == "tensorrt":
            raise
        reason = str(error).rstrip(".")
    model = _model_of(path)
    if model is None:
        raise FoldcamError(
            f"{reason}, and there is no .onnx beside {path} to run without TensorRT."
        )
    print(f"note: no TensorRT: {printable(reason)}; using ONNX Runtime.", file=sys.stderr)
    return in_onnxruntime(model, aloud=True)


def _check_usage(path: Path, wanted: Library, provider: Provider) -> None:
    if is_engine(path) and wanted == "onnxruntime":
        raise FoldcamError(f"{path} is a TensorRT engine, not for ONNX Runtime: give the .onnx.")
    if provider != "auto" and wanted != "onnxruntime":
        raise FoldcamError(
            f"The provider {provider} is ONNX Runtime's and {path} is to run in TensorRT: "
            "give the .onnx and --backend onnxruntime, or no --provider."
        )


def _model_of(path: Path) -> Path | None:
    """The folded model itself, or the one that an engine was built from, beside it."""
    if not is_engine(path):
        return path
    names = [path.with_suffix(".onnx").name]
    with suppress(FoldcamError):  # TensorRT's reason has said it
        from foldcam.runtime.engine.manifest import read_manifest

        names.insert(0, read_manifest(path).model.name)
    found = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    return found[0] if found else None
