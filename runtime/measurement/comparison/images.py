"""Photographs of a folder for a gate on the device, labelled by their folders' names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.files import list_images, read_image
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.model_input import ModelInput
from foldcam.runtime.system.errors import FoldcamError

FEWEST = 8
"""Images below which no figure of a gate means anything."""


@dataclass(frozen=True, eq=False)
class GateImages:
    """The photographs that a gate measures on."""

    names: tuple[str, ...]
    images: tuple[Image, ...]
    labels: tuple[str | None, ...]
    sha256: str
    skipped: tuple[tuple[str, str], ...]


def read_gate_images(
    folder: Path, contract: Contract, progress: Callable[[int, int], None]
) -> GateImages:
    """Read a folder and bring its images to the input size, as a run on the device does."""
    known = {run.name for run in contract.labels}
    paths, given = list_images(folder), ModelInput(contract)
    names, images, labels, skipped = [], [], [], []
    digest = hashlib.sha256()
    for done, path in enumerate(paths, 1):
        name = path.relative_to(folder).as_posix()
        try:
            image, _ = given.picture(read_image(path))
            data = path.read_bytes()
        except (FoldcamError, OSError) as error:
            skipped.append((name, str(error).replace(f"{folder}/", "")))
            continue
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(hashlib.sha256(data).digest())
        names.append(name)
        images.append(image)
        labels.append(path.parent.name if path.parent.name in known else None)
        progress(done, len(paths))
    if len(images) < FEWEST:
        reason = f" ({skipped[0][1].rstrip('.')})" if skipped else ""
        raise FoldcamError(
            f"{folder} holds {len(images)} images that can be read{reason}, and a gate needs at "
            f"least {FEWEST}: add some that took no part in export and calibration."
        )
    return GateImages(
        tuple(names), tuple(images), tuple(labels), digest.hexdigest(), tuple(skipped)
    )
