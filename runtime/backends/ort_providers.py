"""What ONNX Runtime is asked to compute on, and with which options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from foldcam.runtime.backends.ort_rtx import rtx_devices
from foldcam.runtime.backends.private_folder import private_folder
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.contract.tensors import bank_lengths, expected_tensors, further_inputs
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import sha256_of_file
from foldcam.runtime.system.user_cache import cache_root

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


@dataclass(frozen=True)
class Choice:
    """Providers in order of preference, with their options.

    Attributes:
        device: `cpu`, `cuda`, `tensorrt` or `rtx`.
        providers: for `InferenceSession`.
        max_batch: images in one run at most; None for no limit.
        plugin_devices: of a provider that is a plugin, which is chosen by them.
    """

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

    Raises:
        FoldcamError: this onnxruntime lacks the provider, its plugin is not installed or finds no
            GPU, or the cache is not safe.
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
    return {
        "device_id": "0",
        "enable_cuda_graph": str(int(cuda_graph)),
        **_profile("nv", contract),
    }


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
