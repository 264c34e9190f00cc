"""Localization of every peer on the same images, asked the same questions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldcam.benchmarks.evaluation.localization.boxes import pixel_average_precision
from foldcam.benchmarks.evaluation.localization.evaluate import Scores, per_subject
from foldcam.benchmarks.evaluation.localization.metrics import grid_pointing
from foldcam.benchmarks.evaluation.localization.subjects import (
    Grid,
    Subjects,
    draw_grids,
    grid_image,
)
from foldcam.benchmarks.studies.peers.peer import Asked, Floats, Peer
from foldcam.benchmarks.studies.peers.setting import Setting
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.files import atomic_path, sha256_of_file

_REPEATS = 2
SIDE = 2


@dataclass(frozen=True)
class Questions:
    """The test images with what is asked of each, and the grids they stand in."""

    test: Subjects  # the images
    asked: Sequence[Asked]  # one question per image
    recipe: Preprocessing  # of the network
    seed: int  # of the grids
    count: int  # the first so many images are explained; the others only stand in grids

    def key(self, setting: Setting) -> str:
        """A name for everything that the answers depend on besides the method."""
        digest = hashlib.sha256(f"{self.seed} {self.count} {self.recipe}".encode())
        for path in (setting.folded, setting.embedder):
            digest.update(sha256_of_file(path).encode())
        for image in self.test.images:
            digest.update(image.tobytes())
        return digest.hexdigest()[:16]

    def grids(self) -> list[Grid]:
        """The 2 x 2 grids that ask for one of the first `count` images."""
        drawn = draw_grids(self.test.labels, SIDE, _REPEATS, self.seed)
        return [grid for grid in drawn if grid.asked < self.count]

    def image(self, number: int) -> Floats:
        """`float32 [1, 3, H, W]`."""
        return self.recipe.normalized(self.test.resized[number][None])


def scores_of(
    explain: Callable[[Floats, Asked, bool], Floats],
    questions: Questions,
    kept: Path,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Scores:
    """`grid_pointing` and `pixel_ap` of one way to a heatmap.

    Args:
        explain: image, question, whether it is a grid -> heatmap.
        kept: where the maps are kept, so that a later call with the same questions goes on from
            them.
    """
    grids = questions.grids()
    if not kept.is_file():
        maps, shares = _answers(explain, questions, grids, on_progress)
        with atomic_path(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, maps=maps, shares=shares)
    with np.load(kept) as stored:
        maps, shares = stored["maps"], stored["shares"]
    recipe, count = questions.recipe, questions.count
    scores = Scores(count)
    size = (recipe.height, recipe.width)
    precision = pixel_average_precision(maps, questions.test.boxes[:count], size)
    scores.statistics["pixel_ap"] = precision.pooled
    scores.add_values("grid_pointing", per_subject(grids, list(shares), count))
    return scores


def _answers(
    explain: Callable[[Floats, Asked, bool], Floats],
    questions: Questions,
    grids: Sequence[Grid],
    on_progress: Callable[[int, int], None],
) -> tuple[Floats, Floats]:
    """Heatmaps `[N, h, w]` of the single images, and the share of heat in each grid's cell."""
    recipe, count = questions.recipe, questions.count
    maps = []
    for number in range(count):
        maps.append(explain(questions.image(number), questions.asked[number], False))
        on_progress(number + 1, count + len(grids))
    shares = []
    for number, grid in enumerate(grids):
        picture = grid_image(grid, questions.test.images, recipe)
        heat = explain(recipe.normalized(picture[None]), questions.asked[grid.asked], True)
        shares.append(grid_pointing(np.maximum(heat, 0), SIDE, SIDE, grid.cell))
        on_progress(count + number + 1, count + len(grids))
    return np.stack(maps).astype(np.float32), np.asarray(shares, np.float32)


def map_difference(one: Peer, other: Peer, images: Sequence[Floats], asked: Asked) -> float:
    """The greatest difference of two peers' heatmaps, each divided by its maximum."""
    worst = 0.0
    for image in images:
        maps = [peer.run(image, asked) for peer in (one, other)]
        scaled = [heat / max(float(heat.max()), 1e-20) for heat in maps]
        worst = max(worst, float(np.abs(scaled[0] - scaled[1]).max()))
    return worst
