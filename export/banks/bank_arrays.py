"""The arrays of a bank's file, held against what a bank is before any of them is read.

A header of a few hundred bytes may name any dtype and any shape. All are compared first, so that
what the rest of foldcam gets has the kind, the sizes and the range that it counts on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import safetensors

from foldcam.export.datasets.samples import LONGEST_NAME
from foldcam.runtime.system.errors import FoldcamError

EMBEDDINGS, GRAD_WEIGHTS, GRAD_INDEX = "embeddings", "grad_weights", "grad_index"
VALUES, IMAGE_HASHES, MEAN_SUMMANDS = "values", "image_hashes", "mean_summands"
NAMES = "names"
# In place of `grad_weights`, where they have a low rank: their product is them.
GRAD_ROWS, GRAD_BASIS = "grad_rows", "grad_basis"
FORMAT = "foldcam.bank"
HASH_BYTES = 32

# Of grad-weights that a product makes out of a smaller file: 100,000 rows of 4096 channels.
_MOST_PRODUCT = 1 << 29
_FLOATS = frozenset({"F16", "F32", "F64"})
_INTEGERS = frozenset({"I32", "I64"})
_BYTES = frozenset({"U8"})


@dataclass(frozen=True)
class _Expected:
    """An array: what its numbers may be, and its sizes, each a number or a name."""

    dtypes: frozenset[str]
    shape: tuple[str | int, ...]


# Sizes with one name are equal.
_SCHEMA = {
    EMBEDDINGS: _Expected(_FLOATS, ("N", "D")),
    GRAD_WEIGHTS: _Expected(_FLOATS, ("M", "K")),
    GRAD_ROWS: _Expected(_FLOATS, ("M", "rank")),
    GRAD_BASIS: _Expected(_FLOATS, ("rank", "K")),
    GRAD_INDEX: _Expected(_INTEGERS, ("N",)),
    VALUES: _Expected(_FLOATS, ("N",)),
    IMAGE_HASHES: _Expected(_BYTES, ("N", HASH_BYTES)),
    # UTF-8, with a zero byte between the names of two rows.
    NAMES: _Expected(_BYTES, ("bytes",)),
    # Its channels are K only where the rows are no directions.
    MEAN_SUMMANDS: _Expected(_FLOATS, ("channels", "height", "width")),
}


def read_arrays(path: Path) -> tuple[str, dict[str, npt.NDArray[Any]]]:
    """The header and the arrays of a bank's file.

    Returns:
        The header, a JSON text, and by name `float32` or `int32` or `uint8` arrays whose sizes
        agree; `grad_weights` is always among them.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as stored:
            header = (stored.metadata() or {}).get(FORMAT)
            held = set(stored.keys()) & _SCHEMA.keys()
            if header is None or not _complete(held):
                raise FoldcamError(
                    f"{path} is a safetensors file but not a bank: make one with "
                    "foldcam bank build, or foldcam export --bank."
                )
            _check(path, held, stored.get_slice)
            arrays = {name: _converted(path, name, stored.get_tensor(name)) for name in held}
    except FileNotFoundError:
        raise FoldcamError(f"{path} does not exist.") from None
    except (safetensors.SafetensorError, OSError) as error:
        if path.is_dir():
            raise FoldcamError(f"{path} is a folder, not a bank.") from None
        raise FoldcamError(f"{path} is not a bank, or it is damaged ({error}).") from error
    if GRAD_WEIGHTS not in arrays:
        with np.errstate(over="ignore", invalid="ignore"):  # the bank is held against NaN
            arrays[GRAD_WEIGHTS] = arrays[GRAD_ROWS] @ arrays[GRAD_BASIS]
    return header, arrays


def names_array(names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The names of a bank's rows as its file has them, `uint8 [bytes]`."""
    return np.frombuffer("\0".join(names).encode(), np.uint8)


def names_of(path: Path, array: npt.NDArray[np.uint8], rows: int) -> tuple[str, ...]:
    """The names of a bank's rows."""
    # Before any copy is made: a character has at most four bytes.
    if len(array) > rows * (4 * LONGEST_NAME + 1):
        _fail(path, NAMES, f"are {len(array)} bytes, too many for {rows} rows")
    try:
        names = tuple(array.tobytes().decode().split("\0"))
    except UnicodeDecodeError:
        _fail(path, NAMES, "are not UTF-8")
    if len(names) != rows:
        _fail(path, NAMES, f"are {len(names)} where {rows} are needed")
    if max(map(len, names)) > LONGEST_NAME:
        _fail(path, NAMES, f"have more than {LONGEST_NAME} characters")
    return names


def _complete(held: set[str]) -> bool:
    return {EMBEDDINGS, GRAD_INDEX} <= held and (
        GRAD_WEIGHTS in held or {GRAD_ROWS, GRAD_BASIS} <= held
    )


def _check(path: Path, held: set[str], described: Callable[[str], Any]) -> None:
    """Compare dtypes and shapes, which the file's header has, before numbers are read."""
    sizes: dict[str, tuple[int, str]] = {}
    for name in sorted(held):
        expected, found = _SCHEMA[name], described(name)
        dtype, shape = str(found.get_dtype()), [int(size) for size in found.get_shape()]
        wanted = f"[{', '.join(map(str, expected.shape))}]"
        if dtype not in expected.dtypes:
            _fail(path, name, f"are {dtype} where {' or '.join(sorted(expected.dtypes))} is needed")
        if len(shape) != len(expected.shape):
            _fail(path, name, f"have the shape {shape} where {wanted} is needed")
        for size, meant in zip(shape, expected.shape, strict=True):
            if size < 1:
                _fail(path, name, f"have the shape {shape}, which is empty")
            if isinstance(meant, int):
                if size != meant:
                    _fail(path, name, f"have the shape {shape} where {wanted} is needed")
                continue
            known, other = sizes.setdefault(meant, (size, name))
            if known != size:
                _fail(path, name, f"have the shape {shape}, which does not fit {other}")
    _check_product(path, held, sizes)


def _check_product(path: Path, held: set[str], sizes: Mapping[str, tuple[int, str]]) -> None:
    numbers = sizes["M"][0] * sizes["K"][0]
    if GRAD_WEIGHTS not in held and numbers > _MOST_PRODUCT:
        _fail(
            path, GRAD_ROWS,
            f"and its {GRAD_BASIS} make grad-weights of {numbers * 4 / 2**30:.1f} GiB, more than "
            f"the {_MOST_PRODUCT * 4 >> 30} GiB allowed",
        )  # fmt: skip


def _converted(path: Path, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    dtypes = _SCHEMA[name].dtypes
    if dtypes is _INTEGERS:
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            _fail(path, name, "point outside the bank")
        return array.astype(np.int32, copy=False)
    if dtypes is _FLOATS:
        with np.errstate(over="ignore", invalid="ignore"):  # the bank is held against infinity
            return array.astype(np.float32, copy=False)
    return array


def _fail(path: Path, name: str, reason: str) -> NoReturn:
    raise FoldcamError(f"{path} is not a bank, or it is damaged: its {name} {reason}.")
