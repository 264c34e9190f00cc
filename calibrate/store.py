"""What an earlier or interrupted run found, kept under a hash of all that it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from foldcam.calibrate.statistics import Activation, load_statistics, save_statistics
from foldcam.export.banks.arrays import load_arrays, save_arrays
from foldcam.export.grafting.versions import tool_versions
from foldcam.runtime.system.files import atomic_path, digest_of

_TOOLS = ("foldcam", "numpy", "onnx", "onnxruntime")


def key_of(**parts: Any) -> str:
    """Hexadecimal SHA-256 of values that JSON can hold, by their names."""
    return digest_of(parts)


def tools() -> dict[str, str]:
    """Versions of what computes a calibration."""
    import onnxruntime

    versions = {**tool_versions(), "onnxruntime": str(onnxruntime.__version__)}
    return {name: versions[name] for name in _TOOLS if name in versions}


@dataclass(frozen=True)
class Store:
    """A folder of results; never asked by a file's name, only by key.

    Args:
        folder: made when the first result is kept; None keeps nothing.
    """

    folder: Path | None

    def statistics(self, key: str) -> dict[str, Activation] | None:
        """Kept statistics; None where there are none."""
        return None if self.folder is None else load_statistics(self.folder / f"{key}.npz")

    def keep_statistics(self, key: str, found: Mapping[str, Activation]) -> None:
        """Keep them."""
        if self.folder is not None:
            save_statistics(self.folder / f"{key}.npz", found)

    def arrays(self, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """Kept arrays by name; None where there are none."""
        return None if self.folder is None else load_arrays(self.folder / f"{key}.npz")

    def keep_arrays(self, key: str, found: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep them."""
        if self.folder is not None:
            save_arrays(self.folder / f"{key}.npz", found)

    def json(self, key: str) -> Any:
        """A kept document; None where there is none, or half of one."""
        if self.folder is None:
            return None
        try:
            return json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def keep_json(self, key: str, document: Any) -> None:
        """Keep it."""
        if self.folder is not None:
            with atomic_path(self.folder / f"{key}.json") as temporary:
                temporary.write_text(json.dumps(document), encoding="utf-8")
