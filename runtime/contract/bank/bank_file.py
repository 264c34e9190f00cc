"""The file of a bank on a device: read with NumPy alone, and written down to the disk.

It has the layout of `foldcam.export.banks.bank.Bank`, so that the workstation's tools read it.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from foldcam.runtime.contract.bank.live_bank import HASH_BYTES, LiveBank
from foldcam.runtime.contract.schema import LabelRuns
from foldcam.runtime.contract.tensor_file import DTYPES, TensorFile, header_bytes
from foldcam.runtime.contract.tensors import LEAST_LABELS
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, refuse_special

Array = npt.NDArray[Any]

_EMBEDDINGS, _DIRECTIONS, _INDEX = "embeddings", "grad_weights", "grad_index"
_HASHES, _NAMES, _MEAN = "image_hashes", "names", "mean_summands"
# By name: dtype and number of dimensions of what is read; directions and index follow from it.
_READ = {_EMBEDDINGS: ("F32", 2), _HASHES: ("U8", 2), _NAMES: ("U8", 1), _MEAN: ("F32", 3)}
_UNIT = 1e-3


class _About(Struct, frozen=True):
    labels: LabelRuns
    network_sha256: str


def read_bank(path: Path) -> LiveBank:
    """Read a bank."""
    refuse_special(path)
    try:
        with path.open("rb") as file:
            opened = TensorFile(file.fileno(), path, "bank")
            arrays: dict[str, Array] = {}
            for name, (kind, dimensions) in _READ.items():
                if name in opened:
                    dtype, shape, offset = opened.placed(name, [kind], dimensions)
                    file.seek(offset)
                    arrays[name] = np.fromfile(file, dtype, math.prod(shape)).reshape(shape)
    except FileNotFoundError:
        raise FoldcamError(
            f"{path} does not exist: a model that was exported with --bank-input needs its bank "
            "beside it, so copy it there."
        ) from None
    except (OSError, ValueError) as error:  # a ValueError where it has become shorter
        raise FoldcamError(f"{path} cannot be read as a bank ({error}).") from error
    labels = opened.about(_About).labels
    rows, distinct = sum(run.count for run in labels), {run.name for run in labels}
    embeddings = arrays.get(_EMBEDDINGS)
    if embeddings is None or len(embeddings) != rows or len(distinct) != len(labels):
        raise FoldcamError(f"{path} is damaged: it does not have an embedding for each row.")
    if len(labels) < LEAST_LABELS:
        raise FoldcamError(f"{path} is no bank for a device: it needs two labels at least.")
    norms = np.linalg.norm(embeddings, axis=1)
    if not np.isfinite(norms).all() or np.abs(norms - 1).max() > _UNIT:
        raise FoldcamError(f"{path} is damaged: its embeddings are not of norm 1.")
    hashes: Array = arrays.get(_HASHES, np.zeros((rows, HASH_BYTES), np.uint8))
    if hashes.shape != (rows, HASH_BYTES):
        raise FoldcamError(f"{path} is damaged: it does not have a hash for each row.")
    about = {key: value for key, value in opened.document.items() if key != "labels"}
    return LiveBank(
        embeddings, labels, _names(path, arrays.get(_NAMES), rows), hashes, arrays.get(_MEAN), about
    )


def write_bank(bank: LiveBank, path: Path) -> None:
    """Write a bank; the old file or the new one is there, whatever happens."""
    arrays: dict[str, Array] = {
        _EMBEDDINGS: bank.embeddings, _DIRECTIONS: bank.directions, _INDEX: bank.label_index,
        _HASHES: bank.image_hashes,
    }  # fmt: skip
    if bank.mean_summands is not None:
        arrays[_MEAN] = bank.mean_summands
    if any(bank.names):
        arrays[_NAMES] = np.frombuffer("\0".join(bank.names).encode(), np.uint8)
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    placed, first = {}, 0
    for name, array in arrays.items():
        placed[name] = (kinds[array.dtype], list(array.shape), first, first + array.nbytes)
        first += array.nbytes
    about = {**bank.about, "labels": [[run.name, run.count] for run in bank.labels]}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header_bytes(placed, "bank", json.dumps(about, sort_keys=True)))
        for array in arrays.values():
            array.tofile(file)
        file.flush()
        os.fsync(file.fileno())


def _names(path: Path, array: Array | None, rows: int) -> tuple[str, ...]:
    if array is None:
        return ("",) * rows
    try:
        names = tuple(array.tobytes().decode().split("\0"))
    except UnicodeDecodeError:
        names = ()
    if len(names) != rows:
        raise FoldcamError(f"{path} is damaged: it does not have a name for each row.")
    return names
