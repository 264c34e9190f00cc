"""Numbers of a network that can be used: finite, and not all zero. What cannot is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.export.datasets import Sample
from foldcam.runtime.system.errors import FoldcamError

_NAMED = 5


def check_finite(rows: npt.NDArray[Any], samples: Sequence[Sample]) -> None:
    """Refuse numbers of a network that are not finite, and name the pictures.

    Args:
        rows: `[N, ...]`, embeddings, or values that lead to them, one row of each sample.
        samples: N.
    """
    finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    if finite.all():
        return
    bad = [sample for sample, whole in zip(samples, finite, strict=True) if not whole]
    # One picture says nothing of the network.
    if 1 < len(bad) == len(samples):
        raise FoldcamError(
            "The network gives embeddings that are not finite (NaN or infinity) for every one of "
            f"the {len(samples)} images, first {bad[0].name}: it or its preprocessing is broken; "
            "check --weights, --mean and --std."
        )
    raise FoldcamError(
        f"The network gives embeddings that are not finite (NaN or infinity) for {len(bad)} of "
        f"{len(samples)} images: {named(bad)}; take {'it' if len(bad) == 1 else 'them'} out of "
        "the data set (a picture of one colour makes some networks divide by zero)."
    )


def unit_rows(
    embeddings: npt.NDArray[np.float32], samples: Sequence[Sample] | None = None
) -> npt.NDArray[np.float32]:
    """Embeddings `float32 [N, D]`, each divided by its L2 norm.

    Args:
        embeddings: one row of each sample.
        samples: N, for the message; None where rows are no images.
    """
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    zero = np.flatnonzero(norms[:, 0] < 1e-12)
    if len(zero):
        if samples is None:
            raise FoldcamError("The mean of a label's embeddings is zero: it has no direction.")
        raise FoldcamError(
            f"The network gives an embedding of zeros for {len(zero)} of {len(samples)} images: "
            f"{named([samples[int(row)] for row in zero])}; it has no direction to compare: take "
            "the image out of the data set, or check the network if there are many."
        )
    unit: npt.NDArray[np.float32] = (embeddings / norms).astype(np.float32)
    return unit


def named(samples: Sequence[Sample]) -> str:
    """The first few by name."""
    more = f" and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
    return ", ".join(sample.name for sample in samples[:_NAMED]) + more
