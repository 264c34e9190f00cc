"""What ONNX Runtime is asked to compute on, and with which options."""

from __future__ import annotations

import os
import re
import stat
import threading
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.contract.tensors import bank_lengths, expected_tensors, further_inputs
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import cache_root, sha256_of_file, user_errors_for
from foldcam.runtime.system.text import reason_of

if TYPE_CHECKING:
    from foldcam.runtime.backends.interface import Provider

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
MAX_BATCH = 8
"""Of the TensorRT provider: a larger batch would build another engine in the midst of a run."""
_WORKSPACE = 1 << 30
_BOUNDS = ("min", "opt", "max")
_TF32_SINCE = (1, 18)

Option = dict[str, str]
PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx"
_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
_lock = threading.Lock()
_registered: set[str] = set()
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Choice:
    """Providers in order of preference, with their options."""

    device: str
    providers: list[tuple[str, Option]]
    max_batch: int | None = None
    plugin_devices: tuple[Any, ...] = ()

    @property
    def first(self) -> str:
        """The provider that is wanted; the others only help it out."""
        return self.providers[0][0]


def choose(
    onnxruntime: ModuleType, provider: Provider, path: Path, contract: Contract, cuda_graph: bool
) -> Choice:
    """Providers for a model.

    Args:
        provider: `auto` takes CUDA where this onnxruntime has it, never TensorRT.
    """
    if provider == "rtx":
        name, devices = rtx_devices(onnxruntime)
        options = _rtx_options(contract, cuda_graph)
        return Choice("rtx", [(name, options)], MAX_BATCH, tuple(devices))
    available: list[str] = onnxruntime.get_available_providers()
    if provider in ("cuda", "tensorrt"):
        wanted, title = (CUDA, "CUDA") if provider == "cuda" else (TENSORRT, "TensorRT")
        if wanted not in available:
            raise FoldcamError(
                f"This onnxruntime has no {title}: pip install 'foldcam[gpu]', or use "
                "--provider cpu."
            )
    version = str(onnxruntime.__version__)
    cuda = (CUDA, _cuda_options(version, cuda_graph and provider != "tensorrt"))
    if provider == "tensorrt":
        options = _tensorrt_options(version, path, contract, cuda_graph)
        return Choice("tensorrt", [(TENSORRT, options), cuda, (CPU, {})], MAX_BATCH)
    if provider != "cpu" and CUDA in available:
        return Choice("cuda", [cuda, (CPU, {})])
    return Choice("cpu", [(CPU, {})])


def _cuda_options(version: str, cuda_graph: bool) -> Option:
    options = {"device_id": "0"}
    if _release(version) >= _TF32_SINCE:
        # Its default computes fp32 with 10 bits of mantissa, which no one asked for:
        # who wants speed exports fp16.
        options["use_tf32"] = "0"
    if cuda_graph:
        options["enable_cuda_graph"] = "1"
    return options


def _tensorrt_options(version: str, path: Path, contract: Contract, cuda_graph: bool) -> Option:
    # The cache's file names tell the graph's structure and the GPU, but neither the weights
    # nor the version: a bank of the same size would be answered from the old engine.
    key = f"{sha256_of_file(path)[:32]}-{re.sub(r'[^A-Za-z0-9.]+', '-', version)}"
    folder = str(private_folder(cache_root() / "onnxruntime-tensorrt" / key))
    fp16 = getattr(contract, "precision", "fp32") == "fp16"
    return {
        "device_id": "0",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
        "trt_fp16_enable": str(fp16),
        "trt_cuda_graph_enable": str(cuda_graph),
        "trt_max_workspace_size": str(_WORKSPACE),
        **_profile("trt", contract),
    }


def _rtx_options(contract: Contract, cuda_graph: bool) -> Option:
    # It builds within seconds, and keeps nothing: a cache that it finds by a name is trusted.
    return {"device_id": "0", "enable_cuda_graph": str(int(cuda_graph)), **_profile("nv", contract)}


def _profile(prefix: str, contract: Contract) -> Option:
    """The least, usual and greatest shape of each input, as ONNX Runtime wants them written."""
    lengths = bank_lengths(contract)
    inputs = [expected_tensors(contract)[0], *further_inputs(contract)]

    def shapes(at: int) -> str:
        first = (lengths.get(tensor.name, (1, 1, MAX_BATCH))[at] for tensor in inputs)
        return ",".join(
            f"{tensor.name}:{'x'.join(map(str, (length, *tensor.shape[1:])))}"
            for length, tensor in zip(first, inputs, strict=True)
        )

    return {f"{prefix}_profile_{name}_shapes": shapes(at) for at, name in enumerate(_BOUNDS)}


def _release(version: str) -> tuple[int, ...]:
    found: list[Any] = re.findall(r"\d+", version)[:2]
    return tuple(int(part) for part in found)


def rtx_devices(onnxruntime: ModuleType) -> tuple[str, list[Any]]:
    """The provider's name and the GPUs that it computes on."""
    try:
        plugin: Any = import_module(_MODULE)
    except ImportError as error:
        raise FoldcamError(
            f"--provider rtx needs ONNX Runtime's plugin for TensorRT-RTX: pip install {PACKAGE} "
            "(for CUDA 12 with -cu12), or use another --provider."
        ) from error
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise FoldcamError(
            f"onnxruntime {onnxruntime.__version__} takes no plugins, which --provider rtx is: "
            "pip install 'onnxruntime>=1.24'."
        )
    try:
        name = str(plugin.get_ep_name())
        with _lock:
            if name not in _registered:
                onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
                _registered.add(name)
        devices = [each for each in onnxruntime.get_ep_devices() if each.ep_name == name]
    except Exception as error:
        raise FoldcamError(
            "ONNX Runtime's plugin for TensorRT-RTX is installed and cannot be loaded: "
            f"{reason_of(error)}."
        ) from error
    if not devices:
        raise FoldcamError(
            "ONNX Runtime's plugin for TensorRT-RTX finds no GPU that it supports (NVIDIA's from "
            "Ampere on, with their driver): see `runtime doctor`, or use --provider cpu."
        )
    return name, devices[:1]


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can write, or check the one that is there."""
    with user_errors_for(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        real = path.resolve(strict=True)
        for folder in (real, *real.parents):
            _check(folder, folder.stat(), path)
        for entry in sorted(real.rglob("*")):
            _check(entry, entry.lstat(), path)
    return real


def _check(path: Path, facts: os.stat_result, cache: Path) -> None:
    if facts.st_uid not in (0, os.getuid()):
        _refuse(path, f"belongs to user {facts.st_uid}", cache)
    # In a sticky folder such as /tmp others can add files, but not replace this user's.
    sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX and path != cache
    if facts.st_mode & _OTHERS and not stat.S_ISLNK(facts.st_mode) and not sticky:
        _refuse(path, f"can be written by others (mode {stat.S_IMODE(facts.st_mode):o})", cache)
    if stat.S_ISLNK(facts.st_mode):
        _refuse(path, "is a symbolic link", cache)


def _refuse(path: Path, fact: str, cache: Path) -> None:
    raise FoldcamError(
        f"{path} {fact}, and the engines in the cache {cache} are code that would run as you: "
        f"delete that cache and run `chmod go-w {path}`, or set XDG_CACHE_HOME to a folder of "
        "your own."
    )
