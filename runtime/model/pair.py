"""Two pictures compared: how alike they are, and what in each of them speaks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foldcam.runtime.images.given import ImageLike, as_image
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.drawing.text import draw_caption
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.match import GROUND, side_by_side
from foldcam.runtime.model.record import region_document
from foldcam.runtime.model.result import Result

_SIDE = 480


@dataclass(frozen=True, eq=False)
class Pair:
    """What `compare` says.

    Attributes:
        similarity: the cosine of the two embeddings, in [-1, 1].
        first: of the first picture, with its map for the second one.
        second: of the second picture, with its map for the first one.
    """

    similarity: float
    first: Result
    second: Result

    def document(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "similarity": self.similarity,
            "first": _document(self.first),
            "second": _document(self.second),
        }


def compare(model: FoldedModel, first: ImageLike, second: ImageLike) -> Pair:
    """Compare two pictures.

    Each picture's map shows what makes it like the other one and not like the bank in general,
    see `FoldedModel.explain`.

    Args:
        model: exported with `--query`.

    Raises:
        FoldcamError: as `FoldedModel.explain`.
    """
    images = as_image(first), as_image(second)
    one = model.explain(images[0], like=images[1])
    two = model.explain(images[1], like=images[0])
    unit = [each.embedding / np.linalg.norm(each.embedding) for each in (one, two)]
    return Pair(float(np.clip(unit[0] @ unit[1], -1.0, 1.0)), one, two)


def draw_pair(pair: Pair, first: ImageLike, second: ImageLike) -> Image:
    """Both pictures beside each other, each with what makes it like the other.

    Args:
        pair: what `compare` says of them.

    Returns:
        `uint8 [H, W, 3]` RGB: warm is what speaks for the similarity, cold what speaks against
        it. A box shows each picture's hottest region, and the line below how much of the evidence
        for the similarity lies in it.
    """
    pictures = []
    for result, given in ((pair.first, first), (pair.second, second)):
        drawn = result.draw(given, map="contribution", mark="box")
        pictures.append(draw_caption(_sized(drawn), _words(result)))
    left, right = pictures
    both = side_by_side(left, right, (), right.shape[1])
    return draw_caption(both, f"similarity {pair.similarity:.2f}")


def _sized(image: Image) -> Image:
    """The picture at the height of both, and on a ground where it is much wider or narrower."""
    sized = fitted(image, 2 * _SIDE, _SIDE, enlarge=True)
    height, width = sized.shape[:2]
    ground = np.full((_SIDE, max(width, _SIDE // 2), 3), GROUND, np.uint8)
    ground[:height, :width] = sized
    return ground


def _words(result: Result) -> str:
    region = region_document(result)
    said = f"{result.answer}  {result.similarities[0]:.2f}" if result.valid else result.answer
    if region is None or region["share"] is None:
        return said
    return f"{said}, {region['share']:.0%} of the likeness in the box"


def _document(result: Result) -> dict[str, Any]:
    return {
        "answer": result.answer,
        "answer_similarity": float(result.similarities[0]) if result.valid else None,
        "evidence_for": result.evidence_for,
        "evidence_against": result.evidence_against,
        "hottest_region": region_document(result),
    }
