"""The demo's data: views of eight photographs to learn, and unseen scenes composed from them.

The photographs come with scikit-image, free to use in examples. The views of one
photograph are one class, so this is instance retrieval. A scene shows two of the
photographs on a texture, at known places, one larger than the other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from foldcam.runtime.images.files import read_image
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError

# label -> (photograph of the views, photograph of the scenes). The motorcycle
# exists twice, seen from two places.
OBJECTS: dict[str, tuple[str, str]] = {
    "astronaut": ("astronaut.png", "astronaut.png"),
    "cameraman": ("camera.png", "camera.png"),
    "cat": ("chelsea.png", "chelsea.png"),
    "coffee": ("coffee.png", "coffee.png"),
    "coins": ("coins.png", "coins.png"),
    "horse": ("horse.png", "horse.png"),
    "motorcycle": ("motorcycle_left.png", "motorcycle_right.png"),
    "rocket": ("rocket.jpg", "rocket.jpg"),
}
TEXTURES = ("brick.png", "grass.png", "gravel.png")

VIEWS_PER_OBJECT = 12
SCENES_PER_OBJECT = 3
VIEW_SIZE = 320
SCENE_SIZE = 448


Box = tuple[int, int, int, int]
"""`(x0, y0, x1, y1)` in pixels, half-open."""


@dataclass(frozen=True)
class Placement:
    """An object in a scene: its label and its box."""

    label: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """An unseen picture."""

    image: Image  # `uint8 [448, 448, 3]` RGB
    placements: tuple[Placement, ...]  # the larger object first


class Photographs:
    """The photographs, read once.

    Args:
        seed: of every random choice; views and scenes draw from separate streams.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        folder = _photograph_folder()
        self._read = {
            name: read_image(folder / name)
            for name in {*(name for pair in OBJECTS.values() for name in pair), *TEXTURES}
        }

    def whole(self, label: str) -> Image:
        """An object's photograph as it is, `uint8 [H, W, 3]` RGB."""
        return self._read[OBJECTS[label][1]]

    def views(self) -> Iterator[tuple[str, Image]]:
        """Training images: `(label, uint8 [320, 320, 3])`, each object over textures."""
        for number, (label, (name, _)) in enumerate(OBJECTS.items()):
            generator = np.random.default_rng([self._seed, 0, number])
            for _ in range(VIEWS_PER_OBJECT):
                canvas = self._texture(generator, VIEW_SIZE)
                sides = (int(VIEW_SIZE * generator.uniform(0.55, 1.0)),)
                self._paste(generator, canvas, (name,), sides)
                yield label, canvas

    def scenes(self) -> Iterator[Scene]:
        """Unseen scenes: each object is the larger one in `SCENES_PER_OBJECT` of them."""
        labels = list(OBJECTS)
        for number, label in enumerate(labels):
            generator = np.random.default_rng([self._seed, 1, number])
            for _ in range(SCENES_PER_OBJECT):
                other = str(generator.choice([name for name in labels if name != label]))
                canvas = self._texture(generator, SCENE_SIZE)
                sides = (
                    int(SCENE_SIZE * generator.uniform(0.44, 0.56)),
                    int(SCENE_SIZE * generator.uniform(0.26, 0.34)),
                )
                names = (OBJECTS[label][1], OBJECTS[other][1])
                boxes = self._paste(generator, canvas, names, sides)
                yield Scene(canvas, (Placement(label, boxes[0]), Placement(other, boxes[1])))

    def _texture(self, generator: np.random.Generator, size: int) -> Image:
        texture = self._read[str(generator.choice(TEXTURES))]
        top, left = generator.integers(0, 512 - size + 1, 2)
        tint = generator.uniform(0.6, 1.1, 3)
        region = texture[top : top + size, left : left + size] * tint
        return np.clip(region, 0, 255).astype(np.uint8)

    def _paste(
        self,
        generator: np.random.Generator,
        canvas: Image,
        names: tuple[str, ...],
        sides: tuple[int, ...],
    ) -> list[Box]:
        """Paste random views of photographs where they do not cover each other."""
        boxes: list[Box] = []
        while not boxes or _any_overlap(boxes):
            corners = [generator.integers(0, canvas.shape[0] - side + 1, 2) for side in sides]
            boxes = [
                (int(x), int(y), int(x) + side, int(y) + side)
                for (x, y), side in zip(corners, sides, strict=True)
            ]
        for name, side, (x0, y0, x1, y1) in zip(names, sides, boxes, strict=True):
            canvas[y0:y1, x0:x1] = _varied(generator, self._read[name], side)
        return boxes


def _varied(generator: np.random.Generator, photograph: Image, side: int) -> Image:
    """A square crop of at least 80 % of the short side, perhaps mirrored, darker or lighter."""
    height, width = photograph.shape[:2]
    crop = int(min(height, width) * generator.uniform(0.8, 1.0))
    top = int(generator.integers(0, height - crop + 1))
    left = int(generator.integers(0, width - crop + 1))
    region = photograph[top : top + crop, left : left + crop]
    if generator.random() < 0.5:
        region = region[:, ::-1]
    gain = generator.uniform(0.8, 1.2)
    resized = cv2.resize(np.ascontiguousarray(region), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(resized * gain, 0, 255), np.uint8)


def _any_overlap(boxes: list[Box]) -> bool:
    return any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for a, b in combinations(boxes, 2)
    )


def _photograph_folder() -> Path:
    # Found and not imported: importing scikit-image takes a second and is not needed.
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise FoldcamError(
            "The demo's photographs come with scikit-image: pip install 'foldcam[demo]'."
        )
    return Path(found.origin).parent / "data"
