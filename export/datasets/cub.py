"""A CUB-200-2011 folder: its lists, its official split, its boxes."""

from __future__ import annotations

from pathlib import Path

from foldcam.export.datasets.samples import Box, Part, Reading, Sample
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special

_PARTS: dict[str, Part] = {"1": "train", "0": "test"}


def read_cub(root: Path) -> Reading:
    """Read the lists. The boxes are where the birds are, and nothing is cut by them."""
    names = _table(root / "images.txt")
    classes = _table(root / "classes.txt")
    label_of = _table(root / "image_class_labels.txt")
    boxes = _table(root / "bounding_boxes.txt")
    in_training = _table(root / "train_test_split.txt")
    # Relative to it, pictures are called as in images.txt.
    reading = Reading(root=root / "images")
    for number, name in names.items():
        try:
            part = _PARTS[in_training[number].strip()]
            label = classes[label_of[number]]
            x, y, width, height = (float(value) for value in boxes[number].split())
        except (KeyError, ValueError) as error:
            raise FoldcamError(
                f"{root}: image {number} of images.txt has no valid entry in the other lists "
                f"({error})."
            ) from None
        reading.names.setdefault(part, [part])
        sample = Sample(root / "images" / name, label, Box(x, y, width, height))
        reading.samples.append((part, sample))
    return reading


def _table(path: Path) -> dict[str, str]:
    """Lines `key value...` of a CUB list."""
    refuse_special(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FoldcamError(f"{path} is missing from this CUB-200-2011 folder.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FoldcamError(f"{path} cannot be read ({error}).") from None
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
