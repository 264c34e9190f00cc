"""What may be compared with what: devices, the class of a machine, and what one measured once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from foldcam.runtime.engine.device import find_gpu
from foldcam.runtime.engine.flavours import Wanted, find_flavour
from foldcam.runtime.measurement.bench.clocks import read_clocks
from foldcam.runtime.measurement.bench.facts import machine_facts
from foldcam.runtime.system.documents import Finite, Versioned, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import write_document

Device = Literal["cpu", "cuda", "tensorrt", "rtx"]
DEVICES: tuple[Device, ...] = get_args(Device)
FLAVOURS: dict[str, Wanted] = {"tensorrt": "tensorrt", "rtx": "rtx"}
"""Devices that run engines -> the TensorRT that builds them."""


@dataclass(frozen=True)
class MachineClass:
    """Machines on which one network takes the same time."""

    device: str  # of `DEVICES`
    hardware: str  # name of the GPU or of the processor; of a Jetson that of the board
    library: str  # what runs the graphs, with its version
    power_mode: str = ""  # a Jetson's mode or a GPU's power limit; empty where there is neither

    @property
    def title(self) -> str:
        """To read: `tensorrt on Orin, tensorrt 10.3.0, MAXN`."""
        rest = ", ".join(part for part in (self.library, self.power_mode) if part)
        return f"{self.device} on {self.hardware}, {rest}"

    @property
    def file_name(self) -> str:
        """Of its baseline: `tensorrt-orin-tensorrt-10.3.0-maxn.json`."""
        hardware = re.sub(r"\((r|tm)\)|cpu|@.*", "", self.hardware.lower())
        words = (self.device, hardware, self.library.lower(), self.power_mode.lower())
        parts = (re.sub(r"[^a-z0-9.]+", "-", word).strip("-") for word in words)
        return "-".join(part for part in parts if part) + ".json"


def class_of(device: str, machine: Mapping[str, Any], versions: Mapping[str, str]) -> MachineClass:
    """The class of a machine by its facts.

    Args:
        machine: as `machine_facts`, with `power_limit_watts` where it is known.
    """
    hardware = machine.get("processor") if device == "cpu" else machine.get("gpu")
    if machine.get("l4t") and machine.get("board"):
        # `Orin` is the GPU of every Orin, from the Nano to the AGX.
        hardware = machine["board"]
    power = str(machine.get("power_mode", ""))
    if device != "cpu" and not power and "power_limit_watts" in machine:
        power = f"{float(machine['power_limit_watts']):.0f} W"
    library = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return MachineClass(device, str(hardware or "unknown"), library, power)


def machine_now(device: str) -> dict[str, Any]:
    """The facts of this machine that decide its class; of a GPU with its power limit."""
    facts = machine_facts()
    limit = None if device == "cpu" else read_clocks().power_limit_watts
    return facts if limit is None else {**facts, "power_limit_watts": limit}


def check_device(device: str) -> None:
    """Refuse a device that is not there, before anything is made for it."""
    library_versions(device)
    if device == "cuda":
        from foldcam.benchmarks.cost.gpu.sessions import check_cuda

        check_cuda()
    if device != "cpu" and find_gpu() is None:
        raise FoldcamError(
            f"--device {device} needs an NVIDIA GPU and the driver finds none here: see `runtime "
            "doctor`, or gate with --device cpu."
        )


def library_versions(device: str) -> dict[str, str]:
    """The library that runs the graphs on a device, with its version."""
    if device in FLAVOURS:
        flavour = find_flavour(FLAVOURS[device])
        return {flavour.name: flavour.version}
    try:
        import onnxruntime
    except ImportError as error:
        extra = "gpu" if device == "cuda" else "cpu"
        raise FoldcamError(
            f"--device {device} runs graphs in ONNX Runtime, which is not installed: pip install "
            f"'foldcam[{extra}]', or gate engines with --device tensorrt."
        ) from error
    return {"onnxruntime": str(onnxruntime.__version__)}


FOLDER = Path(__file__).resolve().parents[2] / "baselines"
_SCHEMA_VERSION = 1
_MOST_REPEATS = 10_000
# Beside the class, what must be the same before milliseconds are compared.
_MODE = ("machine", "l4t", "governor")


@dataclass(frozen=True)
class Baseline:
    """A stored measurement."""

    subject: str  # what was measured, in words
    device: str  # of `DEVICES`
    machine: dict[str, Any]  # its facts
    versions: dict[str, str]  # of the libraries that ran it
    figures: dict[str, list[Finite]]  # name -> one number per repeat
    where: str = ""  # the file, for the messages

    @property
    def machine_class(self) -> MachineClass:
        """The class of the machine that was measured."""
        return class_of(self.device, self.machine, self.versions)

    def check(self, subject: str, machine: MachineClass) -> None:
        """Refuse to be compared with anything else."""
        for ours, theirs in ((subject, self.subject), (machine.title, self.machine_class.title)):
            if ours != theirs:
                raise FoldcamError(
                    f"{self.where} is a baseline of {theirs!r} and not of {ours!r}: name another "
                    "with --baseline, or write it again."
                )

    def same_mode(self, machine: Mapping[str, Any]) -> str:
        """Empty where milliseconds can be compared with it, else what is different."""
        for key in _MODE:
            ours, theirs = machine.get(key), self.machine.get(key)
            if ours != theirs:
                return f"the {key} is {ours or 'unknown'} and was {theirs or 'unknown'}"
        return ""


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FoldcamError(f"There is no baseline {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FoldcamError(f"{path} is no baseline: {error}.") from None
    if read_document(Versioned, document, str(path)).schema_version != _SCHEMA_VERSION:
        raise FoldcamError(
            f"{path}: schema_version is not {_SCHEMA_VERSION}: write it again with --update."
        )
    figures = document.get("figures")
    if isinstance(figures, dict):
        document["figures"] = {
            name: values
            for name, values in figures.items()
            if isinstance(values, list) and 0 < len(values) <= _MOST_REPEATS
        }
    return replace(read_document(Baseline, document, str(path)), where=str(path))


def write_baseline(path: Path, document: Mapping[str, Any]) -> None:
    """Write what a run measured, with its provenance, as a baseline.

    Args:
        document: with `subject`, `device`, `machine`, `versions`, `figures`, and what tells where
            it comes from.
    """
    write_document(path, {**document, "schema_version": _SCHEMA_VERSION})
