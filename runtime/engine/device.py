"""The machine that an engine is built for, and the one that it is about to run on.

The GPU is asked through its driver, which is on every machine that can run an engine:
neither pycuda nor cuda-python is needed to say that an engine does not fit.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldcam.runtime.engine.flavours import FlavourName, installed_versions

_DRIVER = "libcuda.so.1"
_L4T_RELEASE = Path("/etc/nv_tegra_release")
_MEMORY = Path("/proc/meminfo")
# CUdevice_attribute
_INTEGRATED, _MAJOR, _MINOR = 18, 75, 76


@dataclass(frozen=True)
class Gpu:
    """The first CUDA device."""

    name: str
    compute_capability: str
    integrated: bool
    free_bytes: int | None


@dataclass(frozen=True)
class Host:
    """The machine around the GPU."""

    machine: str
    system: str
    l4t: str


@dataclass(frozen=True)
class DeviceFacts:
    """What an engine must fit."""

    gpu: Gpu | None
    host: Host
    tensorrt: Mapping[FlavourName, str] = field(default_factory=dict)


def device_facts() -> DeviceFacts:
    """Look at this machine. Imports every TensorRT that is installed, which takes seconds."""
    return DeviceFacts(find_gpu(), find_host(), installed_versions())


def find_host(release: Path = _L4T_RELEASE) -> Host:
    """Machine, system, and the release of Jetson Linux."""
    return Host(platform.machine(), platform.system(), _l4t(release))


def find_gpu(load: Callable[[str], Any] = ctypes.CDLL, memory: Path = _MEMORY) -> Gpu | None:
    """The first CUDA device; None without one, or where its driver does not start."""
    try:
        cuda = load(_DRIVER)
    except OSError:
        return None
    device = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), device)
    major, minor = (_attribute(cuda, what, device) for what in (_MAJOR, _MINOR))
    if major is None or minor is None:
        return None
    integrated = bool(_attribute(cuda, _INTEGRATED, device))
    free = _free(cuda, device)
    if integrated and free is not None:
        # What the kernel holds as a cache of files counts as taken there, and is given back.
        free = max(free, _available(memory))
    return Gpu(name.value.decode("utf-8", "replace"), f"{major}.{minor}", integrated, free)


def _attribute(cuda: Any, what: int, device: ctypes.c_int) -> int | None:
    value = ctypes.c_int()
    failed = cuda.cuDeviceGetAttribute(ctypes.byref(value), what, device)
    return None if failed else value.value


def _free(cuda: Any, device: ctypes.c_int) -> int | None:
    context = ctypes.c_void_p()
    if cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    try:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if cuda.cuCtxPushCurrent_v2(context):
            return None
        failed = cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        return None if failed else free.value
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)


def _available(memory: Path) -> int:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", memory.read_text("ascii"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return 0
    return int(found.group(1)) * 1024 if found else 0


def _l4t(release: Path) -> str:
    """`# R36 (release), REVISION: 4.3, GCID: ...` is `36.4.3`."""
    try:
        text = release.read_text("utf-8", "replace")[:1000]
    except OSError:
        return ""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{found.group(1)}.{found.group(2)}" if found else "unknown"
