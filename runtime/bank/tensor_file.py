"""Files of named arrays, in the safetensors format, with NumPy alone.

A file is the length of its header (8 bytes, little-endian), the header, a JSON object that gives
each array's dtype, shape and place, and the arrays' bytes. `__metadata__` holds texts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.fields import Fields
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special
from foldcam.runtime.system.strict_json import parse_json

Array = npt.NDArray[Any]

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 64 << 20
_MAX_DIMENSIONS = 8
_METADATA = "__metadata__"
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}  # fmt: skip


def read_tensors(path: Path, wanted: Collection[str], what: str) -> tuple[str, dict[str, Array]]:
    """Read arrays of a file, and one text of its metadata.

    Args:
        path: the file.
        wanted: names of arrays; others are not read.
        what: what the file should be, such as `bank`: the text `foldcam.bank` is returned.

    Returns:
        The text, and those of the arrays that the file has, in memory of their own.

    Raises:
        FoldcamError: the file is missing, no such file, or damaged.
    """
    refuse_special(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
                raise FoldcamError(f"{path} is not a {what}, or it is damaged.")
            header = _header(file.read(length), path, what)
            begin = _LENGTH_BYTES + length
            arrays = {}
            for name in wanted:
                if name in header:
                    dtype, shape, first = _place(header.section(name), size - begin)
                    file.seek(begin + first)
                    array = np.fromfile(file, dtype, math.prod(shape))
                    arrays[name] = array.reshape(shape)
    except FileNotFoundError:
        raise FoldcamError(f"{path} does not exist.") from None
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # shorter than it was a moment ago
        raise FoldcamError(f"{path} is damaged ({error}).") from error
    return header.section(_METADATA).text(f"foldcam.{what}"), arrays


def write_tensors(path: Path, text: str, arrays: Mapping[str, Array], what: str) -> None:
    """Write arrays and one text to a new file, down to the disk.

    Args:
        path: the file, which is not renamed from a temporary name here.
        text: of the metadata.
        arrays: `uint8`, `int32`, `int64`, `float16` or `float32`.
        what: as in `read_tensors`.

    Raises:
        OSError: it cannot be written.
    """
    header: dict[str, Any] = {_METADATA: {f"foldcam.{what}": text}}
    first = 0
    for name, array in arrays.items():
        kind = _kind(array)
        header[name] = {
            "dtype": kind, "shape": list(array.shape), "data_offsets": [first, first + array.nbytes]
        }  # fmt: skip
        first += array.nbytes
    document = json.dumps(header, separators=(",", ":")).encode()
    # Arrays begin at a multiple of eight bytes.
    document += b" " * (-len(document) % 8)
    with path.open("wb") as file:
        file.write(len(document).to_bytes(_LENGTH_BYTES, "little"))
        file.write(document)
        for array in arrays.values():
            file.write(array.astype(_DTYPES[_kind(array)], copy=False).tobytes())
        file.flush()
        os.fsync(file.fileno())


def _kind(array: Array) -> str:
    return next(kind for kind, dtype in _DTYPES.items() if dtype == array.dtype)


def _header(data: bytes, path: Path, what: str) -> Fields:
    try:
        document = parse_json(data.decode("utf-8"))
    except ValueError as error:  # not UTF-8, too
        raise FoldcamError(f"{path} is not a {what}, or it is damaged ({error}).") from None
    fields = Fields(document, f"{path} as a {what}")
    if _METADATA not in fields or f"foldcam.{what}" not in fields.section(_METADATA):
        raise FoldcamError(f"{path} is a safetensors file but not a {what}.")
    return fields


def _place(fields: Fields, size: int) -> tuple[np.dtype[Any], list[int], int]:
    """dtype, shape, and where the array begins behind the header."""
    kind = fields.text("dtype")
    if kind not in _DTYPES:
        fields.fail("dtype", f"is none of {', '.join(_DTYPES)}")
    shape = [size for size in fields.shape("shape", _MAX_DIMENSIONS) if isinstance(size, int)]
    first, end = fields.integers("data_offsets", 2, low=0, high=size)
    if end - first != math.prod(shape) * _DTYPES[kind].itemsize:
        fields.fail("data_offsets", "are not those of its shape")
    return _DTYPES[kind], shape, first
