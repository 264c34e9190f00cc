"""ONNX Runtime's plugin for TensorRT-RTX: a package of its own, registered once per process.

Its name and its library's path come from the package itself, `onnxruntime-ep-nv-tensorrt-rtx` (or
the same with `-cu12`), which needs ONNX Runtime 1.24 or later.
"""

from __future__ import annotations

import threading
from importlib import import_module
from types import ModuleType
from typing import Any

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx"
_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
_lock = threading.Lock()
_registered: set[str] = set()


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
        lines = str(error).splitlines() or [type(error).__name__]
        raise FoldcamError(
            "ONNX Runtime's plugin for TensorRT-RTX is installed and cannot be loaded: "
            f"{printable(shorten(lines[0], 300)).rstrip('.')}."
        ) from error
    if not devices:
        raise FoldcamError(
            "ONNX Runtime's plugin for TensorRT-RTX finds no GPU that it supports (NVIDIA's from "
            "Ampere on, with their driver): see `runtime doctor`, or use --provider cpu."
        )
    return name, devices[:1]
