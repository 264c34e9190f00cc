"""What a shard's work leaves on disk: checked arrays, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
from safetensors.numpy import save_file

from export.datasets import SkippedFile
from runtime.errors import FoldcamError
from runtime.files import atomic_path
from runtime.strict_json import parse_json

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

_FORMAT = "foldcam.shard"


class DamagedShardError(FoldcamError):
    """A shard's file is not what was written."""


@dataclass(frozen=True)
class EmbeddedShard:
    """The rows of one shard, by label and within a label in the data set's order.

    With values in place of labels they stay in the data set's order.

    Attributes:
        embeddings: `float32 [n, D]` of norm 1.
        positions: `int64 [n]`, of each row's image in the shard.
        image_hashes: `uint8 [n, 32]`, see `export.datasets.reading.picture_hash`.
        labels: runs of consecutive rows, `(label, rows)`.
        sums: `float64 [runs, D]`, of each run's embeddings.
        values: `float64 [n]`, where the images have values.
        skipped: images that could not be read.
        clipped: how many had a box that reached beyond their photograph.
    """

    embeddings: Floats
    positions: Integers
    image_hashes: npt.NDArray[np.uint8]
    labels: tuple[tuple[str, int], ...]
    sums: Doubles
    values: Doubles | None
    skipped: tuple[SkippedFile, ...]
    clipped: int = 0

    @property
    def rows(self) -> int:
        """n."""
        return int(self.embeddings.shape[0])

    def save(self, path: Path) -> None:
        """Write the file."""
        arrays: dict[str, Array] = {
            "embeddings": self.embeddings,
            "positions": self.positions,
            "image_hashes": self.image_hashes,
            "sums": self.sums,
        }
        if self.values is not None:
            arrays["values"] = self.values
        skipped = [[str(i.path), i.reason, i.url] for i in self.skipped]
        header = {"labels": self.labels, "skipped": skipped, "clipped": self.clipped}
        write_arrays(path, arrays, header)

    @staticmethod
    def load(path: Path) -> EmbeddedShard:
        """Read the file.

        Raises:
            DamagedShardError: it is missing or not what was written.
        """
        arrays, header = read_arrays(path)
        try:
            return EmbeddedShard(
                embeddings=arrays["embeddings"],
                positions=arrays["positions"],
                image_hashes=arrays["image_hashes"],
                labels=tuple((str(name), int(count)) for name, count in header["labels"]),
                sums=arrays["sums"],
                values=arrays.get("values"),
                skipped=tuple(
                    SkippedFile(Path(path), reason, url) for path, reason, url in header["skipped"]
                ),
                clipped=int(header.get("clipped", 0)),
            )
        except (KeyError, ValueError, TypeError):
            raise _damaged(path, "it is no shard of a bank") from None


@dataclass(frozen=True)
class Rows:
    """Some rows of one file.

    Attributes:
        path: the file.
        rows: `int64 [m]`.
    """

    path: Path
    rows: Integers


def gather(name: str, pieces: Sequence[Rows]) -> Array:
    """One array of several files, a piece at a time in memory.

    Raises:
        DamagedShardError: a file is missing or not what was written.
    """
    return np.concatenate([array for _, array in each_piece(name, pieces)])


def each_piece(name: str, pieces: Sequence[Rows]) -> Iterator[tuple[Rows, Array]]:
    """The pieces of `gather`, one after the other."""
    for piece in pieces:
        arrays, _ = read_arrays(piece.path)
        yield piece, arrays[name][piece.rows]


def write_arrays(path: Path, arrays: Mapping[str, Array], header: Mapping[str, Any]) -> None:
    """Write arrays with a hash by which a flipped bit is found.

    Raises:
        FoldcamError: the disk is full, or the folder cannot be written.
    """
    stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    document = {**header, "sha256": _hash(stored)}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata={_FORMAT: json.dumps(document)})


def read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and header of a file of `write_arrays`.

    Raises:
        DamagedShardError: it is missing or not what was written.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as stored:
            header = parse_json((stored.metadata() or {})[_FORMAT])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    # A dtype that numpy has not is an AttributeError of it.
    except (
        safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise _damaged(path, " ".join(str(error).split())[:100]) from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no object")
    if header.get("sha256") != _hash(arrays):
        raise _damaged(path, "its hash is another one")
    return arrays, header


def is_whole(path: Path) -> bool:
    """Whether a file is there and what was written; a damaged one is to be made again."""
    try:
        read_arrays(path)
    except DamagedShardError:
        return False
    return True


def _hash(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _damaged(path: Path, reason: str) -> DamagedShardError:
    return DamagedShardError(
        f"The shard {path} is damaged ({reason}): remove it and run foldcam bank build again, "
        "which makes that shard alone anew."
    )
