"""What a device measured once, and where that came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foldcam.benchmarks.cost.gate.machine import MachineClass, class_of
from foldcam.runtime.system.documents import Finite, Versioned, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import write_document

FOLDER = Path(__file__).resolve().parent.parent / "baselines"
_SCHEMA_VERSION = 1
_MOST_REPEATS = 10_000
# Beside the class, what must be the same before milliseconds are compared.
_MODE = ("machine", "l4t", "governor")


@dataclass(frozen=True)
class Baseline:
    """A stored measurement.

    Attributes:
        subject: what was measured, in words.
        device: of `DEVICES`.
        machine: its facts.
        versions: of the libraries that ran it.
        figures: name -> one number per repeat.
        where: the file, for the messages.
    """

    subject: str
    device: str
    machine: dict[str, Any]
    versions: dict[str, str]
    figures: dict[str, list[Finite]]
    where: str = ""

    @property
    def machine_class(self) -> MachineClass:
        """The class of the machine that was measured."""
        return class_of(self.device, self.machine, self.versions)

    def check(self, subject: str, machine: MachineClass) -> None:
        """Refuse to be compared with anything else.

        Raises:
            FoldcamError: it is of another subject or class of machine.
        """
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
    """Read a baseline file.

    Raises:
        FoldcamError: it is missing or is none.
    """
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
        path: the file.
        document: with `subject`, `device`, `machine`, `versions`, `figures`, and what tells
            where it comes from.
    """
    write_document(path, {**document, "schema_version": _SCHEMA_VERSION})
