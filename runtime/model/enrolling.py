"""Pictures of one label -> rows of the bank beside a model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.bank.bank_file import Added, add_rows
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.files import decode_image, image_bytes
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.model_input import ModelInput
from foldcam.runtime.model.result import Result
from foldcam.runtime.sources.base import Frame
from foldcam.runtime.system.errors import FoldcamError

_SIDE = 256


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to learn.

    Attributes:
        name: what it is called in the bank, such as `anna/1.jpg`.
        sha256: 32 bytes by which it is known again: of the file, or the pixels.
        embedding: `float32 [D]`, of any norm above zero.
        similarity: the cosine to it.
        frame_wh: the picture's width and height in pixels; None where they are not known.
    """

    name: str
    sha256: bytes
    embedding: npt.NDArray[np.float32]
    nearest: str
    similarity: float
    frame_wh: tuple[int, int] | None = None


@dataclass(frozen=True)
class Unusable:
    """A picture that cannot be learned, by its name, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Nearer:
    """A picture that looked more like another label than like its own.

    Attributes:
        similarity: the cosine to its nearest row.
    """

    name: str
    label: str
    similarity: float


@dataclass(frozen=True)
class Enrolled:
    """What `enroll` did.

    Attributes:
        nearer: pictures that were nearer to another label than to any other picture of this one.
        smaller: names of pictures that a model of whole frames is shown smaller than its own
            training images, see `runtime.images.preprocess`.
    """

    added: Added
    unusable: list[Unusable]
    nearer: list[Nearer]
    smaller: list[str]


def enroll(
    bank: Path, contract: Contract, label: str, pictures: Iterable[Picture | Unusable]
) -> Enrolled:
    """Add pictures to the bank; a running process takes it up by itself."""
    usable: list[Picture] = []
    unusable: list[Unusable] = []
    for each in pictures:
        if isinstance(each, Picture):
            usable.append(each)
        else:
            unusable.append(each)
    if not usable:
        first = unusable[0] if unusable else None
        reason = "" if first is None else f" ({first.name}: {first.reason.rstrip('.')})"
        raise FoldcamError(f"No picture of {label!r} can be used{reason}; nothing was added.")
    rows = np.stack([each.embedding for each in usable])
    hashes = np.frombuffer(b"".join(each.sha256 for each in usable), np.uint8).reshape(-1, 32)
    names = [each.name for each in usable]
    added = add_rows(bank, contract.of_file(), label, rows, names, hashes)
    given = ModelInput(contract)
    smaller = [p.name for p in usable if p.frame_wh and given.shows_smaller(*p.frame_wh)]
    return Enrolled(added, unusable, _nearer(label, usable, rows), smaller)


def pictures_of(
    model: FoldedModel, paths: Iterable[Path], root: Path
) -> Iterator[Picture | Unusable]:
    """Read and embed files."""
    for path in paths:
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        try:
            data = image_bytes(path)
            image = decode_image(data, path)
        except FoldcamError as error:
            yield Unusable(name, str(error))
        else:
            yield picture_of(name, hashlib.sha256(data).digest(), model(image))


def picture_of(name: str, sha256: bytes, result: Result) -> Picture | Unusable:
    """A picture by what the model says of it."""
    if result.error is not None:
        return Unusable(name, result.error)
    nearest = result.labels[0], float(result.similarities[0])
    return Picture(name, sha256, result.embedding, *nearest, result.frame_wh)


def pixels_sha256(image: Image) -> bytes:
    """Hash of a frame, which has no file."""
    digest = hashlib.sha256(f"{image.shape};".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.digest()


def _nearer(
    label: str, pictures: Sequence[Picture], embeddings: npt.NDArray[np.float32]
) -> list[Nearer]:
    """Pictures whose nearest row of another label is nearer than their nearest companion."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    among = unit @ unit.T
    np.fill_diagonal(among, -np.inf)
    companion = among.max(axis=1) if len(pictures) > 1 else np.full(1, np.inf)
    return [
        Nearer(each.name, each.nearest, each.similarity)
        for each, own in zip(pictures, companion, strict=True)
        if each.nearest != label and each.similarity > own
    ]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A frame that may be learned."""

    sha256: bytes
    result: Result
    sharpness: float


def looked_at(model: FoldedModel, frames: Iterable[Frame], seconds: float) -> list[Candidate]:
    """The different frames of so many seconds that the model has an answer for.

    No frame is kept: at the rate of a camera they would fill the memory of a small device.

    Args:
        seconds: of a video its own time, of a camera that since its first frame.
    """
    found: dict[bytes, Candidate] = {}
    first = None
    for frame in frames:
        first = frame.timestamp if first is None else first
        if frame.timestamp - first > seconds:
            break
        key = pixels_sha256(frame.image)
        if key not in found and (result := model(frame.image)).valid:
            found[key] = Candidate(key, result, sharpness(frame.image))
    return list(found.values())


def sharpness(image: Image) -> float:
    """The variance of the Laplacian of the picture's grey values, at one size for all frames.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    grey = fitted(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8), _SIDE, _SIDE)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def best_frames(candidates: Sequence[Candidate], most: int) -> list[int]:
    """The sharper half of the frames, and of these those that are most different.

    The sharpest comes first; then, again and again, the frame whose greatest cosine to those
    that were chosen is the smallest.

    Args:
        most: the number of frames to choose.

    Returns:
        Indices of at most `most` frames, in the order in which they were chosen.
    """
    order = sorted(range(len(candidates)), key=lambda at: -candidates[at].sharpness)
    sharp = order[: max(most, (len(order) + 1) // 2)]
    if not sharp or most < 1:
        return []
    rows = np.stack([candidates[at].result.embedding for at in sharp]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    chosen = [0]
    nearest = rows @ rows[0]
    while len(chosen) < min(most, len(sharp)):
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, rows @ rows[chosen[-1]])
    return [sharp[at] for at in chosen]
