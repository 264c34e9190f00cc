"""How far a folded model may be from the float32 network it came from, per output.

Float32 differs by the order of additions alone. The limits of float16 come from measuring:
the demo network on 120 photographs of birds and 120 of houses gave, at worst, an embedding
cosine of 0.99993, a similarity off by 0.0017, a pixel of a heatmap off by 0.017, an estimate
off by 0.0003 of the range, and the same nearest row for every image.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.contract import Contract, Precision


@dataclass(frozen=True)
class Limits:
    """What `verify` lets pass.

    Attributes:
        min_cosine: between the embeddings, for the worst image.
        max_heatmap_difference: greatest absolute difference of a pixel of a heatmap in [0, 1].
        max_tie: another row may be chosen where its similarity is this close.
        max_similarity_difference: of a reported similarity, a cosine.
        max_estimate_difference: of an estimate, as a share of the range of the bank's values.
    """

    min_cosine: float
    max_heatmap_difference: float
    max_tie: float
    max_similarity_difference: float
    max_estimate_difference: float


_LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(0.9999, 1e-3, 1e-5, 1e-4, 1e-3),
    "fp16": Limits(0.9995, 5e-2, 5e-3, 5e-3, 1e-2),
}


def limits_of(contract: Contract) -> Limits:
    """The limits for a folded model of the contract's precision."""
    return _LIMITS[contract.precision]
