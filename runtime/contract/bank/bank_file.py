"""The file of a bank on a device: read with NumPy alone, and written down to the disk.

It has the layout of `foldcam.export.banks.bank.Bank`, so that the workstation's tools read it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from foldcam.runtime.contract.bank.live_bank import HASH_BYTES, LiveBank
from foldcam.runtime.contract.schema import Contract, LabelRuns
from foldcam.runtime.contract.tensor_file import DTYPES, TensorFile, header_bytes
from foldcam.runtime.contract.tensors import LEAST_LABELS
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, hidden_beside, refuse_special, temporary_stem
from foldcam.runtime.system.text import printable

Array = npt.NDArray[Any]

_EMBEDDINGS, _DIRECTIONS, _INDEX = "embeddings", "grad_weights", "grad_index"
_HASHES, _NAMES, _MEAN = "image_hashes", "names", "mean_summands"
# By name: dtype and number of dimensions of what is read; directions and index follow from it.
_READ = {_EMBEDDINGS: ("F32", 2), _HASHES: ("U8", 2), _NAMES: ("U8", 1), _MEAN: ("F32", 3)}
_UNIT = 1e-3
_LAST = "last_added"


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


@dataclass(frozen=True)
class Added:
    """What `add_rows` did."""

    rows: int
    known: list[tuple[str, str]]
    bank: LiveBank


@dataclass(frozen=True)
class Removed:
    """What `remove_rows` did."""

    labels: dict[str, int]
    names: list[str]
    labels_gone: list[str]
    bank: LiveBank


def change_bank(path: Path, change: Callable[[LiveBank], LiveBank]) -> LiveBank:
    """Read, change and write a bank, while no other process does.

    Args:
        change: the bank as it is -> the bank as it is to be; the same object changes nothing.
    """
    with _alone(path):
        before = read_bank(path)
        after = change(before)
        if after is not before:
            write_bank(after, path)
        return after


def add_rows(
    path: Path,
    contract: Contract,
    label: str,
    embeddings: npt.NDArray[np.float32],
    names: list[str],
    image_hashes: npt.NDArray[np.uint8],
) -> Added:
    """Add rows of one label, except for pictures that are in the bank.

    Args:
        embeddings: `float32 [n, D]`, of any norm above zero.
        image_hashes: `uint8 [n, 32]`, by which a picture is known again.
    """
    label = " ".join(label.split())
    if not label or printable(label) != label:
        raise FoldcamError("A label needs a name, without control characters.")
    # The names of files may be no text.
    names = [printable(name) for name in names]
    known: list[tuple[str, str]] = []
    new: list[int] = []

    def change(bank: LiveBank) -> LiveBank:
        hashes = (row.tobytes() for row in bank.image_hashes)
        held = dict(zip(hashes, bank.row_labels(), strict=True))
        for at, row in enumerate(image_hashes):
            own = held.get(row.tobytes())
            if own is None:
                held[row.tobytes()] = label
                new.append(at)
            else:
                known.append((names[at], own))
        if not new:
            return bank
        more = bank.with_rows(label, embeddings[new], [names[at] for at in new], image_hashes[new])
        more.check(contract, str(path))
        last = [image_hashes[at].tobytes().hex() for at in new]
        return replace(more, about={**more.about, _LAST: last})

    bank = change_bank(path, change)
    return Added(len(new), known, bank)


def remove_rows(
    path: Path, contract: Contract, chosen: Callable[[LiveBank], npt.NDArray[np.bool_]]
) -> Removed:
    """Remove rows for good; what was removed cannot be brought back by `undo`."""
    gone: list[tuple[str, str, bytes]] = []

    def change(bank: LiveBank) -> LiveBank:
        mask = chosen(bank)
        if not mask.any():
            return bank
        labels = bank.row_labels()
        left = bank.without(mask)
        left.check(contract, f"{path}, without them,")
        gone.extend(
            (labels[row], bank.names[row], bank.embeddings[row].tobytes())
            for row in np.flatnonzero(mask)
        )
        hashes = {bank.image_hashes[row].tobytes().hex() for row in np.flatnonzero(mask)}
        last = [each for each in _last_added(left) if each not in hashes]
        return replace(left, about={**left.about, _LAST: last})

    bank = change_bank(path, change)
    counts: dict[str, int] = {}
    for label, _, _ in gone:
        counts[label] = counts.get(label, 0) + 1
    kept = {run.name for run in bank.labels}
    held = {row.tobytes() for row in bank.embeddings}
    if traces := _traces(path, [data for _, _, data in gone if data not in held]):
        raise FoldcamError(f"{path} still holds {traces} of the removed rows: remove them again.")
    names = [name for _, name, _ in gone if name]
    return Removed(counts, names, [label for label in counts if label not in kept], bank)


def undo(path: Path, contract: Contract) -> Removed:
    """Remove the rows that were added last."""

    def chosen(bank: LiveBank) -> npt.NDArray[np.bool_]:
        last = {bytes.fromhex(each) for each in _last_added(bank)}
        if not last:
            raise FoldcamError(
                f"{path} has nothing to undo: only the rows that were added last can be taken out "
                "again, and what was removed is gone."
            )
        return np.array([row.tobytes() in last for row in bank.image_hashes])

    return remove_rows(path, contract, chosen)


def _last_added(bank: LiveBank) -> list[str]:
    """Hashes, as hexadecimal digits, of the pictures that were added last."""
    last = bank.about.get(_LAST)
    if not isinstance(last, list):
        return []
    digits = set("0123456789abcdef")
    return [
        each
        for each in last
        if isinstance(each, str) and len(each) == 2 * HASH_BYTES and set(each) <= digits
    ]


def _traces(path: Path, rows: list[bytes]) -> int:
    """How many of the rows' bytes are still in a file."""
    if not rows:
        return 0
    data = path.read_bytes()
    return sum(row in data for row in rows)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from changing the file meanwhile; a process that dies lets go."""
    lock = hidden_beside(path, "lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise FoldcamError(
            f"{path} cannot be changed: {error.strerror or error} in {path.parent}."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Whoever wrote these was killed meanwhile: they may hold rows that are to be forgotten.
        for left in path.parent.glob(f".{escape(temporary_stem(path))}.*.partial{path.suffix}"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)
