"""Whether an embedding is normalised, judged by its numbers."""

from __future__ import annotations

import torch
from torch.nn import functional


def judge_normalization(embedding: torch.Tensor, before: torch.Tensor | None) -> tuple[bool, bool]:
    """Confirm with numbers what a graph's structure suggests.

    Args:
        embedding: `float32 [N, D]` of a few images.
        before: `float32 [N, D]`, what seems to be the normalisation's input, or None.
    """
    norms = embedding.norm(dim=1)
    unit = bool((norms.std() <= 1e-4 * norms.mean()) & (norms.mean() > 0))
    if before is None or before.shape != embedding.shape:
        return unit, False
    cosines = functional.cosine_similarity(embedding, before)
    return unit, unit and bool((cosines > 1 - 1e-5).all())
