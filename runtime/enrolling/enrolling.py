"""Pictures of one label -> rows of the bank beside a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foldcam.runtime.bank.changing import Added, add_rows
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.images.files import decode_image, image_bytes
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model import FoldedModel
from foldcam.runtime.result import Result


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to learn.

    Attributes:
        name: what it is called in the bank, such as `anna/1.jpg`.
        sha256: 64 hexadecimal digits by which it is known again: of the file, or the pixels.
        result: what the model says of it.
    """

    name: str
    sha256: str
    result: Result


@dataclass(frozen=True)
class Nearer:
    """A picture that looked more like another label than like its own.

    Attributes:
        name: of the picture.
        label: the other label.
        similarity: the cosine to its nearest row.
    """

    name: str
    label: str
    similarity: float


@dataclass
class Enrolled:
    """What `enroll` did.

    Attributes:
        added: the rows.
        unusable: name and reason, of pictures that cannot be read or give no embedding.
        nearer: pictures that were nearer to another label than to any other picture of this one.
    """

    added: Added
    unusable: list[tuple[str, str]] = field(default_factory=list)
    nearer: list[Nearer] = field(default_factory=list)


def enroll(
    bank: Path,
    contract: Contract,
    label: str,
    pictures: Iterable[Picture],
    lost: list[tuple[str, str]],
) -> Enrolled:
    """Add pictures to the bank; a running process takes it up by itself.

    Args:
        bank: the file.
        contract: of its model.
        label: of all pictures; known or new.
        pictures: at least one that can be used.
        lost: name and reason of pictures that cannot be used, as `pictures` fills it.

    Raises:
        FoldcamError: none of the pictures can be used, or as `add_rows`.
    """
    names, hashes, embeddings, nearest = [], [], [], []
    for picture in pictures:
        result = picture.result
        if result.error is not None:
            lost.append((picture.name, result.error))
            continue
        names.append(picture.name)
        hashes.append(np.frombuffer(bytes.fromhex(picture.sha256), np.uint8))
        embeddings.append(result.embedding)
        nearest.append((result.labels[0], float(result.similarities[0])))
    if not names:
        reason = f" ({lost[0][0]}: {lost[0][1].rstrip('.')})" if lost else ""
        raise FoldcamError(f"No picture of {label!r} can be used{reason}; nothing was added.")
    rows = np.stack(embeddings)
    added = add_rows(bank, contract.of_file(), label, rows, names, np.stack(hashes))
    return Enrolled(added, lost, _nearer(label, names, rows, nearest))


def pictures_of(
    model: FoldedModel, paths: Iterable[Path], root: Path, lost: list[tuple[str, str]]
) -> Iterable[Picture]:
    """Read and embed files; those that cannot be read are added to `lost`.

    Args:
        model: whose bank is an input.
        paths: the files.
        root: the folder that names are relative to.
        lost: name and reason, filled while reading.
    """
    for path in paths:
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        try:
            data = image_bytes(path)
            image = decode_image(data, path)
        except FoldcamError as error:
            lost.append((name, str(error)))
            continue
        yield Picture(name, hashlib.sha256(data).hexdigest(), model(image))


def pixels_sha256(image: Image) -> str:
    """Hash of a frame, which has no file."""
    digest = hashlib.sha256(f"{image.shape};".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _nearer(
    label: str,
    names: Sequence[str],
    embeddings: npt.NDArray[np.float32],
    nearest: Sequence[tuple[str, float]],
) -> list[Nearer]:
    """Pictures whose nearest row of another label is nearer than their nearest companion."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    among = unit @ unit.T
    np.fill_diagonal(among, -np.inf)
    companion = among.max(axis=1) if len(names) > 1 else np.full(1, np.inf)
    return [
        Nearer(name, other, similarity)
        for name, (other, similarity), own in zip(names, nearest, companion, strict=True)
        if other != label and similarity > own
    ]
