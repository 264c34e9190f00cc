"""Which rows of a forward pass are no answers, and why.

A network without an epsilon in its normalisation, an engine in FP16 that overflows, a GPU with a
fault: each returns numbers that compare with nothing, and the first bank row would win.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

NAN = "the network returned NaN"
INFINITY = "the network returned infinity"
ZERO = "the network returned an embedding of zeros"
TOO_LARGE = "the network returned an embedding too large to compare"
SIMILARITY = "the network returned a similarity that is no cosine"

# A cosine in float16 is off by less.
_MOST_COSINE = 1.05


def reasons(
    embeddings: npt.NDArray[np.float32],
    similarities: npt.NDArray[np.float32],
    others: Sequence[npt.NDArray[np.float32]] = (),
    *,
    cosines: bool = True,
) -> list[str | None]:
    """Why each row is no answer; None where it is one.

    Args:
        embeddings: `float32 [N, D]`.
        similarities: `float32 [N, k]`.
        others: heatmaps and estimates, each `float32 [N, ...]`.
        cosines: whether the similarities are cosines of the embeddings, and not a classifier's
            scores, which may be of any size and all zero.

    Returns:
        `N` clauses for a message, or None.
    """
    count = len(embeddings)
    arrays = [embeddings, similarities, *others]
    least = 0.0 if cosines else -1.0
    flat = [np.asarray(array).reshape(count, -1) for array in arrays]
    finite: npt.NDArray[np.bool_] = np.ones(count, np.bool_)
    for array in flat:
        np.logical_and(finite, np.isfinite(array).all(axis=1), out=finite)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # In float32, as the graph computes it: what overflows here overflowed there.
        squares = np.einsum("nd,nd->n", embeddings, embeddings)
        cosine = np.all(np.abs(similarities) <= _MOST_COSINE, axis=1, keepdims=True)[:, 0]
    cosine |= not cosines
    if finite.all() and cosine.all() and ((squares > least) & np.isfinite(squares)).all():
        return [None] * count
    found: list[str | None] = []
    for row in range(count):
        if not finite[row]:
            nan = any(np.isnan(array[row]).any() for array in flat)
            found.append(NAN if nan else INFINITY)
        elif not np.isfinite(squares[row]):
            found.append(TOO_LARGE)
        elif not squares[row] > least:
            found.append(ZERO)
        else:
            found.append(None if cosine[row] else SIMILARITY)
    return found
