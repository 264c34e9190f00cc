"""Cells of a picture blurred, with a soft edge: evidence is hidden, and none is added.

A blackened cell would be evidence of its own, and so would a hard edge.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.localization.perturbation import cell_ranks
from foldcam.runtime.images.preprocess import Affine, Image

Cells = npt.NDArray[np.bool_]

# In units of the picture's longer side: of the blur, and of the mask's soft edge.
_BLUR = 1 / 10
_EDGE = 1 / 56


class CellBlur:
    """One picture, and the same picture blurred, to be mixed by cells.

    Args:
        image: `uint8 [H, W, 3]`, which the grid of cells covers.
        window: slices of rows and columns that hold the photograph, where the rest is padding.
            Only they are blurred, so that no padding runs into the photograph.
        whole: whether cells are hidden whole, with the soft edge outside of them; else the edge
            lies half on each side, and a lone cell keeps some of what it shows.
    """

    def __init__(
        self, image: Image, window: tuple[slice, slice] | None = None, *, whole: bool = False
    ) -> None:
        self._image = image
        self._whole = whole
        self._window = window or (slice(0, image.shape[0]), slice(0, image.shape[1]))
        part = image[self._window]
        self._side = max(part.shape[:2])
        self._sharp = part.astype(np.float32)
        smooth = cv2.GaussianBlur(part, (0, 0), _BLUR * self._side)
        self._away = np.asarray(smooth, np.float32) - self._sharp

    def __call__(self, cells: Cells) -> Image:
        """The picture with some cells blurred.

        Args:
            cells: `bool [h, w]`, a grid over the whole image.

        Returns:
            `uint8 [H, W, 3]`.
        """
        height, width = self._image.shape[:2]
        mask = cv2.resize(
            cells.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST
        )
        soft = np.asarray(cv2.GaussianBlur(mask[self._window], (0, 0), _EDGE * self._side))
        if self._whole:
            # Along a border the soft mask is one half.
            soft = np.minimum(2 * soft, 1)
        mixed = self._sharp + self._away * soft[..., None]
        result: Image = self._image.copy()
        result[self._window] = np.rint(mixed).astype(np.uint8)
        return result


def photograph_window(
    affine: Affine, frame_wh: tuple[int, int], input_wh: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of the network's input that show the photograph and no padding.

    Args:
        affine: from the preprocessing, input pixels -> pixels of the photograph.
        frame_wh: width and height of the photograph.
        input_wh: width and height of the input.
    """
    left, top = -affine.offset_x / affine.scale_x, -affine.offset_y / affine.scale_y
    right, bottom = left + frame_wh[0] / affine.scale_x, top + frame_wh[1] / affine.scale_y
    return (
        slice(max(0, round(top)), min(input_wh[1], round(bottom))),
        slice(max(0, round(left)), min(input_wh[0], round(right))),
    )


def hottest(heat: npt.ArrayLike, share: float, seed: int = 0) -> Cells:
    """The greatest cells of a map, ties drawn at random.

    Args:
        heat: `[h, w]`, finite.
        share: of the cells, rounded to whole ones and at least one.
        seed: of the draw among ties.

    Returns:
        `bool [h, w]`.
    """
    return first_cells(cell_ranks(heat, seed), share)


def first_cells(ranks: npt.NDArray[np.intp], share: float) -> Cells:
    """The first cells of a ranking `intp [h, w]`, as many as `hottest` takes."""
    return np.asarray(ranks < max(1, round(share * ranks.size)))
