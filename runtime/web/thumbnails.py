"""One small picture per label, for the list of nearest labels."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.images.files import list_images, natural_key, read_image
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.web.packet import encode_jpeg

SIDE = 96
_KEPT = 512
_QUALITY = 82


class Thumbnails:
    """Pictures from a folder: `LABEL.jpg`, or the first image of a folder `LABEL/`.

    The folder of class folders that a model was exported from will do. The paths are those
    found when it is opened: a request names a label, never a path.

    Args:
        folder: None has none.
        contract: says which labels there are.

    Raises:
        FoldcamError: no such folder, or it has no picture for any label.
    """

    def __init__(self, folder: Path | None, contract: Contract) -> None:
        self._paths: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._made: OrderedDict[str, bytes] = OrderedDict()
        if folder is None:
            return
        wanted = {run.name for run in contract.labels}
        for path in list_images(folder, recursive=False):
            if path.stem in wanted:
                self._paths.setdefault(path.stem, path)
        for inner in sorted(folder.iterdir(), key=natural_key):
            if inner.name in wanted and inner.name not in self._paths and inner.is_dir():
                first = _first_image(inner)
                if first is not None:
                    self._paths[inner.name] = first
        if wanted and not self._paths:
            example = min(wanted)
            raise FoldcamError(
                f"{folder} has no thumbnail for any label: name pictures after them, such as "
                f"{example}.jpg, or give folders of pictures, such as {example}/."
            )

    def __contains__(self, label: object) -> bool:
        return label in self._paths

    def jpeg(self, label: str) -> bytes | None:
        """A square picture of a label as JPEG; None if there is none that can be read."""
        with self._lock:
            if label in self._made:
                self._made.move_to_end(label)
                return self._made[label]
        path = self._paths.get(label)
        if path is None:
            return None
        try:
            data = encode_jpeg(_square(read_image(path)), _QUALITY)
        except FoldcamError:
            # Removed or damaged since: the page shows the initial, as for a label without.
            self._paths.pop(label, None)
            return None
        with self._lock:
            self._made[label] = data
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return data


def _first_image(folder: Path) -> Path | None:
    return next(iter(list_images(folder, recursive=False)), None)


def _square(image: Image) -> Image:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    part = image[top : top + side, left : left + side]
    return np.asarray(cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
