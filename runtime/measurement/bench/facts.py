"""What decides a timing besides the model: processor, GPU, clocks, power mode, temperature."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from foldcam.runtime.engine.device import find_gpu, find_host
from foldcam.runtime.system.text import printable, shorten

Command = Callable[[list[str]], str]
"""A command line -> what it printed; empty where it failed or does not exist."""

_SECONDS = 10
_NVIDIA = (
    "name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "temperature.gpu",
    "power.draw", "clocks_throttle_reasons.active",
)  # fmt: skip


def machine_facts(root: Path = Path("/"), run: Command | None = None) -> dict[str, Any]:
    """The facts of this machine that do not change during a run; what is unknown is left out."""
    call = run or called
    host = find_host(root / "etc" / "nv_tegra_release")
    facts: dict[str, Any] = {
        "processor": _processor(root),
        "processors": len(os.sched_getaffinity(0)),
        "board": _board(root),
        "machine": host.machine,
        "system": host.system,
        "governor": text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "largest_clock_mhz": _megahertz(root, "cpuinfo_max_freq"),
        "l4t": host.l4t,
        "power_mode": _power_mode(call),
        "virtual": "hypervisor" in text_of(root / "proc/cpuinfo").split(),
    }
    gpu = find_gpu() if root == Path("/") else None
    if gpu is not None:
        facts["gpu"] = gpu.name
        facts["compute_capability"] = gpu.compute_capability
        facts["gpu_integrated"] = gpu.integrated
        facts["nvidia_smi"] = _nvidia_smi(call)
        facts["jetson_clocks"] = shorten(call(["jetson_clocks", "--show"]), 2000)
    return {key: value for key, value in facts.items() if value not in ("", None, {}, False)}


def state(root: Path = Path("/"), run: Command | None = None) -> dict[str, Any]:
    """What changes while a run goes on: clock, temperature, load; unknown values left out."""
    call = run or called
    found: dict[str, Any] = {
        "clock_mhz": _megahertz(root, "scaling_cur_freq"),
        "temperature_celsius": temperatures(root),
        "load_average": _load(root),
    }
    if (root / "proc/driver/nvidia").exists():
        found["nvidia_smi"] = _nvidia_smi(call)
    return {key: value for key, value in found.items() if value not in ("", None, {})}


def device_name(facts: Mapping[str, Any]) -> str:
    """GPU or processor in a form that can name a file, such as `amd-epyc` or `orin`."""
    name = str(facts.get("gpu") or facts.get("processor") or "unknown")
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|cpu|@.*", "", name.lower())).strip("-")


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Zone -> degrees Celsius, of the kernel's thermal zones."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        with suppress(ValueError):
            found[text_of(zone / "type") or zone.name] = int(text_of(zone / "temp")) / 1000
    return found


def _processor(root: Path) -> str:
    text = text_of(root / "proc/cpuinfo")
    for key in ("model name", "Model", "Hardware"):
        found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        if found:
            return shorten(printable(found[1].strip()), 100)
    return _board(root) or platform.processor() or platform.machine()


def _board(root: Path) -> str:
    """Name of a board that has a device tree; of a Jetson the module, as its GPU's name is not."""
    return shorten(printable(text_of(root / "proc/device-tree/model").rstrip("\0")), 100)


def _megahertz(root: Path, name: str) -> float | None:
    text = text_of(root / "sys/devices/system/cpu/cpu0/cpufreq" / name)
    if text.isdigit():
        return int(text) / 1000
    if name == "scaling_cur_freq":
        found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", text_of(root / "proc/cpuinfo"), re.MULTILINE)
        return round(float(found[1]), 1) if found else None
    return None


def _load(root: Path) -> float | None:
    words = text_of(root / "proc/loadavg").split()
    return float(words[0]) if words else None


def _power_mode(call: Command) -> str:
    """`NV Power Mode: MAXN` of a Jetson's nvpmodel."""
    found = re.search(r"NV Power Mode\s*:\s*(\S+)", call(["nvpmodel", "-q"]))
    return printable(found[1]) if found else ""


def _nvidia_smi(call: Command) -> dict[str, str]:
    """A Jetson's nvidia-smi answers `[N/A]` to most of it, or is missing."""
    text = call(["nvidia-smi", f"--query-gpu={','.join(_NVIDIA)}", "--format=csv,noheader"])
    values = [value.strip() for value in (text.splitlines() or [""])[0].split(",")]
    if len(values) != len(_NVIDIA):
        return {}
    pairs = zip(_NVIDIA, values, strict=True)
    return {key: printable(value) for key, value in pairs if "N/A" not in value}


def text_of(path: Path) -> str:
    """What a file of the kernel says; empty where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def called(command: list[str]) -> str:
    """What a command of this machine prints; empty where it fails or does not exist."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
