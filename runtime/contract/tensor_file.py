"""Files of named arrays, in the safetensors format, with NumPy alone.

A file is the length of its header (8 bytes, little-endian), the header, a JSON object that gives
each array's dtype, shape and place, and the arrays' bytes. `__metadata__` holds one text of ours,
`foldcam.bank` of a bank or `foldcam.gallery` of a gallery.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
from msgspec import Struct

from foldcam.runtime.system.documents import Natural, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.strict_json import parse_json

LENGTH_BYTES = 8
DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}  # fmt: skip

_METADATA = "__metadata__"
_MAX_HEADER_BYTES = 64 << 20
About = TypeVar("About")


class Placed(NamedTuple):
    """Where an array lies: its numbers fit its shape, and its bytes fit the file."""

    dtype: np.dtype[Any]
    shape: list[int]
    offset: int


class _Entry(Struct, frozen=True):
    """What a header says of an array."""

    dtype: str
    shape: tuple[Natural, ...]
    data_offsets: tuple[Natural, Natural]


class TensorFile:
    """The header of an open file, held against the file's size."""

    def __init__(self, handle: int, path: Path, what: str, remedy: str = "") -> None:
        self._handle, self._path, self._remedy = handle, path, remedy
        self._size = os.fstat(handle).st_size
        none = FoldcamError(f"{path} is not a {what}, or it is damaged{remedy}.")
        length = 0
        if self._size >= LENGTH_BYTES:
            length = int.from_bytes(self.bytes_at(0, LENGTH_BYTES), "little")
        if not 2 <= length <= min(_MAX_HEADER_BYTES, self._size - LENGTH_BYTES):
            raise none
        self._begin = LENGTH_BYTES + length
        try:
            document = parse_json(self.bytes_at(LENGTH_BYTES, length).decode("utf-8"))
        except ValueError:  # not UTF-8, too
            raise none from None
        self._header = read_document(dict[str, Any], document, f"{path} as a {what}")
        texts = self._header.get(_METADATA)
        text = texts.get(f"foldcam.{what}") if isinstance(texts, dict) else None
        if not isinstance(text, str):
            raise FoldcamError(f"{path} is a safetensors file but not a {what}{remedy}.")
        try:
            self.document = parse_json(text)
        except ValueError as error:
            raise FoldcamError(f"{path}: what it says of itself is not JSON ({error}).") from None

    def __contains__(self, name: str) -> bool:
        return name in self._header

    def about(self, kind: type[About]) -> About:
        """What the file says of itself, as a typed value."""
        return read_document(kind, self.document, f"{self._path}: header")

    def fail(self, name: str, reason: str) -> NoReturn:
        """Raise the complaint about an array."""
        raise FoldcamError(f"{self._path}: its array {name} {reason}.")

    def placed(self, name: str, dtypes: Collection[str], dimensions: int) -> Placed:
        """Where an array lies."""
        if name not in self:
            self.fail(name, "is missing")
        entry = read_document(_Entry, self._header[name], f"{self._path}: its array {name}")
        if entry.dtype not in dtypes:
            self.fail(name, f"has the dtype {entry.dtype[:80]!r} and needs {' or '.join(dtypes)}")
        if len(entry.shape) != dimensions:
            self.fail(
                name, f"has {len(entry.shape)} dimensions in its shape and needs {dimensions}"
            )
        dtype, (first, last) = DTYPES[entry.dtype], entry.data_offsets
        size = math.prod(entry.shape) * dtype.itemsize
        if last - first != size or last > self._size - self._begin:
            self.fail(
                name,
                f"has the data_offsets {first} and {last}, which is not where {size} bytes lie",
            )
        return Placed(dtype, [*entry.shape], self._begin + first)

    def bytes_at(self, offset: int, count: int) -> bytes:
        """So many bytes of the file, from any thread."""
        parts, left = [], count
        while left:
            try:
                part = os.pread(self._handle, left, offset + count - left)
            except OSError as error:
                raise FoldcamError(
                    f"{self._path} cannot be read: {error.strerror or error}."
                ) from error
            if not part:
                raise FoldcamError(f"{self._path} is cut short{self._remedy}.")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def header_bytes(
    arrays: Mapping[str, tuple[str, list[int], int, int]], what: str, about: str, length: int = 0
) -> bytes:
    """The beginning of a file.

    Args:
        arrays: by name a key of `DTYPES`, the shape, and the first and last byte, counted from
            the end of the header.
        what: `bank` or `gallery`.
        length: at least so many bytes; what the text does not need is filled with spaces.
    """
    document: dict[str, Any] = {_METADATA: {f"foldcam.{what}": about}}
    for name, (kind, shape, first, last) in arrays.items():
        document[name] = {"dtype": kind, "shape": shape, "data_offsets": [first, last]}
    text = json.dumps(document, separators=(",", ":")).encode().ljust(length - LENGTH_BYTES)
    # Arrays begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
