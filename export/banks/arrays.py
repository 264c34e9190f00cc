"""Named arrays in one file, whole or not at all, and never a pickle."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.system.files import atomic_path


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays to an `.npz` file, whole or not at all.

    Args:
        path: the path of the file.
        arrays: under any names; they become members `0`, `1`, ... beside one of names, because
            names of nodes are no names of files.
    """
    members = {str(place): array for place, array in enumerate(arrays.values())}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, names=np.array(list(arrays)), **members)


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """Read what `save_arrays` wrote; None where there is none, or it cannot be read."""
    if not path.is_file():
        # To open a pipe waits for somebody who writes.
        return None
    try:
        with np.load(path, allow_pickle=False) as members:
            return {
                str(name): np.asarray(members[str(place)])
                for place, name in enumerate(members["names"])
            }
    # What numpy, zipfile and zlib say of damage and of what is no such file.
    except (
        OSError, ValueError, LookupError, EOFError, TypeError, AttributeError, RuntimeError,
        struct.error, zipfile.BadZipFile, zlib.error,
    ):  # fmt: skip
        return None
