"""How far a folded model may be from its reference, by the precision of its numbers.

The limits of float16 come from measuring: the demo network on 120 photographs of birds and
120 of houses gave, at worst, an embedding cosine of 0.99993, a similarity off by 0.0017, a
pixel of a heatmap off by 0.017, an estimate off by 0.0003 of the range, and the same nearest
row for every image. Those of int8 are first guesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx
from onnx import TensorProto

from foldcam.export.onnx_graphs.writing import PREFIX

Precision = Literal["fp32", "fp16", "int8"]

_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Limits:
    """What passes.

    Attributes:
        cosine_mean, cosine_worst: at least, between embeddings.
        label_agreement: at least, share of images whose nearest rows have one label.
        tie: at most, by which the similarities of two rows may differ for one of them to
            be taken in the other's place.
        similarity_difference: at most, of a reported similarity.
        heatmap_correlation_mean: at least.
        heatmap_difference: at most, of the worst pixel.
        estimate_difference: at most, as a share of the range of the bank's values.
    """

    cosine_mean: float
    cosine_worst: float
    label_agreement: float
    tie: float
    similarity_difference: float
    heatmap_correlation_mean: float
    heatmap_difference: float
    estimate_difference: float


# An exact model agrees to the rounding of float32. A rounded one may choose between rows
# that are as near as its rounding is coarse; what counts then are labels and maps on average.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(0.9999, 0.9999, 0.0, 1e-5, 1e-4, 0.0, 1e-3, 1e-3),
    "fp16": Limits(0.9995, 0.9995, 0.98, 5e-3, 5e-3, 0.999, 5e-2, 1e-2),
    "int8": Limits(0.98, 0.9, 0.9, 0.1, 0.1, 0.98, 1.0, 0.1),
}


def precision_of(model: onnx.ModelProto, *, with_bank: bool) -> Precision:
    """The coarsest precision that a folded model's numbers have.

    Args:
        with_bank: whether the bank's storage counts as well, as it does where the model
            is compared with a bank of full precision.
    """
    graph = model.graph
    nodes = [node for node in graph.node if with_bank or not node.name.startswith(PREFIX)]
    if any(node.op_type in _QUANTIZERS for node in nodes):
        return "int8"
    names = {name for node in nodes for name in node.input}
    stored = [tensor for tensor in graph.initializer if tensor.name in names]
    inline = [a.t for node in nodes for a in node.attribute if a.HasField("t")]
    return "fp16" if any(tensor.data_type in _HALF for tensor in [*stored, *inline]) else "fp32"
