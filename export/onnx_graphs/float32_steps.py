"""Which steps of a network stay float32 when the rest becomes float16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.export.onnx_graphs.normalization import find_normalization
from foldcam.runtime.contract.schema import EMBEDDING

FLOAT16_MAX = float(np.finfo(np.float16).max)
FLOAT16_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)

# Sums over many values, and what leaves the range of float16 for ordinary inputs:
# a sum of 300 squares of 15 is infinite there, exp(12) as well.
_STEEP = {
    "CumSum", "Exp", "GlobalAveragePool", "GlobalLpPool", "Log", "Pow", "Reciprocal", "ReduceL1",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
    "ReduceSumSquare", "Softplus", "Sqrt",
}  # fmt: skip
# Normalisations hold a variance or a sum of exponentials inside; what they return is of ordinary
# size again.
_NORMALIZATIONS = {
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax",
    "LpNormalization", "MeanVarianceNormalization", "RMSNormalization", "Softmax",
}  # fmt: skip
# Between the product of queries and keys and the softmax of attention: scale, mask, cap.
_ON_SCORES = {"Add", "Cast", "Clip", "Div", "Identity", "Mul", "Reshape", "Sub", "Tanh", "Where"}
# A sum, a norm or a variance is handed on through these.
_CARRIES = {
    "Abs", "Add", "Cast", "Clip", "Div", "Expand", "Flatten", "Identity", "Max", "Min", "Mul",
    "Neg", "Reshape", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
# An additive constant may be as small as it likes.
_BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}


@dataclass(frozen=True)
class Misfit:
    """A constant that float16 cannot hold.

    Attributes:
        node: output of the node that stays float32 for it.
    """

    node: str
    constant: str
    magnitude: float


def steep_nodes(graph: onnx.GraphProto, constants: set[str]) -> set[int]:
    """Positions of the nodes whose values float16 would overflow, flush or round too coarsely.

    These are sums, powers and normalisations; the arithmetic on what they return, up to
    where it meets a value of ordinary size; the scores of attention, from the product of queries
    and keys to the softmax; and everything from the input of the final L2 normalisation to the
    embedding.
    """
    kept: set[int] = set()
    steep: set[str] = set()
    for position, node in enumerate(graph.node):
        variable = [name for name in node.input if name and name not in constants]
        meets = [name in steep for name in variable]
        square = node.op_type == "Mul" and len(node.input) == 2 and node.input[0] == node.input[1]
        carried = node.op_type in _CARRIES and any(meets)
        if node.op_type in _STEEP or square or (carried and all(meets)):
            kept.add(position)
            steep.update(node.output)
        elif carried or node.op_type in _NORMALIZATIONS:
            kept.add(position)
    return kept | _attention_scores(graph, constants) | _final_normalization(graph)


def misfit(node: onnx.NodeProto, constants: dict[str, npt.NDArray[Any]]) -> Misfit | None:
    """The first constant of a node that float16 cannot hold: too great, or flushed as a whole.

    Args:
        node: a node that could be float16.
    """
    for position, name in enumerate(node.input):
        value = constants.get(name)
        if value is None:
            continue
        magnitudes = np.abs(value[np.isfinite(value)])
        greatest = float(magnitudes.max()) if magnitudes.size else 0.0
        bias = _BIAS.get(node.op_type) == position
        flushed = 0 < greatest < FLOAT16_SMALLEST_NORMAL and not bias
        if greatest > FLOAT16_MAX or flushed:
            return Misfit(node.output[0], name, greatest)
    return None


def _attention_scores(graph: onnx.GraphProto, constants: set[str]) -> set[int]:
    """Positions of the nodes from the products of queries and keys to each softmax."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    kept: set[int] = set()
    for softmax in (node for node in graph.node if node.op_type == "Softmax"):
        waiting, chain, products = [str(softmax.input[0])], set(), set()
        while waiting:
            place = makers.get(waiting.pop())
            if place is None or place in chain:
                continue
            node = graph.node[place]
            if node.op_type in ("MatMul", "Einsum") and not constants.intersection(node.input):
                products.add(place)
            elif node.op_type in _ON_SCORES:
                chain.add(place)
                waiting += node.input
        if products:
            kept |= chain | products
    return kept


def _final_normalization(graph: onnx.GraphProto) -> set[int]:
    """Positions of the nodes between the input of the final normalisation and the embedding."""
    source = find_normalization(graph, EMBEDDING)
    if source is None:
        return set()
    after = {source}
    downstream: list[int] = []
    for position, node in enumerate(graph.node):
        if after.intersection(node.input):
            after.update(node.output)
            downstream.append(position)
    before = {EMBEDDING}
    kept: set[int] = set()
    for position in reversed(downstream):
        if before.intersection(graph.node[position].output):
            before.update(graph.node[position].input)
            kept.add(position)
    return kept
