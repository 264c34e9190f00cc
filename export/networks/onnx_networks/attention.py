"""Reading an attention as a sum over tokens, and its one row that an embedding reads.

`out[q] = sum_p softmax(Q[q] . K[p])_p V[p]` is a sum over the tokens p of weight times value.
Where the embedding reads one query (the class token, or the one learned query of a pooling
head), only that row of the weights is needed: a few small nodes compute it a second time from
queries and keys, because one more reader of the softmax would break what TensorRT fuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

from foldcam.export.networks.onnx_networks.rewrite import Shape
from foldcam.export.onnx_graphs.values import Flow, attributes_of

_PASSING = {"Identity", "Dropout", "Cast"}
# Steps between the product of queries and keys and the softmax.
_ELEMENTWISE = {"Mul", "Div", "Add", "Sub", "Identity", "Cast", "Where"}


@dataclass(frozen=True)
class Attention:
    """An attention in a graph, `[N, H, Q, P] x [N, H, P, d]`; H joined with N, or 1, is possible.

    Attributes:
        weights: the name of the softmax's output that the product reads.
        heads: H.
        queries: Q.
        tokens: P.
        head_size: d.
        rank: dimensions of the tensors, 3 or 4.
        row: the query that the embedding reads.
        steps: the nodes from the product of queries and keys to `weights`, in order; empty where
            they are not of the usual form, and the weights are read themselves.
        per_query: factors and masks that have one row for each query, and the axis of the rows.
    """

    weights: str
    values: str
    heads: int
    queries: int
    tokens: int
    head_size: int
    rank: int
    row: int = 0
    steps: tuple[onnx.NodeProto, ...] = ()
    queries_input: str = ""
    per_query: tuple[tuple[str, int], ...] = ()

    def at(self, row: int) -> Attention:
        """The same attention, read at another query."""
        return replace(self, row=row)


def read_attention(
    node: onnx.NodeProto,
    flow: Flow,
    shapes: Mapping[str, Shape],
    constants: Mapping[str, tuple[int, ...]],
) -> Attention | None:
    """The attention whose product of weights and values a MatMul is, None where it is none."""
    weights, values = (str(name) for name in node.input)
    weights = _unguarded(flow, weights)
    softmax = _maker(flow, weights, _PASSING)
    if softmax is None or softmax.op_type != "Softmax":
        return None
    of_weights, of_values = shapes.get(weights), shapes.get(values)
    if of_weights is None or of_values is None or of_weights.axis != 0 or of_values.axis != 0:
        return None
    rank = len(of_weights.sizes)
    if rank not in (3, 4) or len(of_values.sizes) != rank:
        return None
    if attributes_of(softmax).get("axis", -1) not in (-1, rank - 1):
        return None
    *_, queries, tokens = of_weights.sizes
    if of_values.sizes[-2] != tokens:
        return None
    joined = of_weights.sizes[0] // of_weights.unit
    heads = joined * (of_weights.sizes[1] if rank == 4 else 1)
    if rank == 4 and joined != 1:
        return None
    found = Attention(weights, values, heads, queries, tokens, of_values.sizes[-1], rank)
    sizes = {name: shape.sizes for name, shape in shapes.items()}
    return _with_steps(found, flow, {**sizes, **constants})


def _unguarded(flow: Flow, weights: str) -> str:
    """The weights before torch's guard against rows that a mask leaves empty.

    `Where(IsNaN(x), 0, x)`; of the one row that is read, no image is masked.
    """
    number = flow.producer.get(weights)
    if number is None or flow.nodes[number].op_type != "Where":
        return weights
    condition, _, inner = (str(name) for name in flow.nodes[number].input)
    test = flow.producer.get(condition)
    if test is None or flow.nodes[test].op_type != "IsNaN" or flow.nodes[test].input[0] != inner:
        return weights
    return inner


def _maker(flow: Flow, name: str, through: set[str]) -> onnx.NodeProto | None:
    """The node that makes a value, behind those that only hand it on."""
    while (number := flow.producer.get(name)) is not None:
        node = flow.nodes[number]
        if node.op_type not in through:
            return node
        name = str(node.input[0])
    return None


def _with_steps(
    attention: Attention, flow: Flow, sizes: Mapping[str, tuple[int, ...]]
) -> Attention:
    """The attention with the nodes from queries and keys to its weights.

    Without them where they are not of the usual form, or where there is one query: its weights
    are read as they are.
    """
    steps: list[onnx.NodeProto] = []
    per_query: dict[str, int] = {}
    name = attention.weights
    while attention.queries > 1 and (number := flow.producer.get(name)) is not None:
        node = flow.nodes[number]
        steps.append(node)
        if node.op_type == "MatMul":
            return replace(
                attention,
                steps=tuple(reversed(steps)),
                queries_input=str(node.input[0]),
                per_query=tuple(per_query.items()),
            )
        inside = [str(each) for each in node.input if each and flow.holds_image(each)]
        if len(inside) != 1 or node.op_type not in _ELEMENTWISE | _PASSING | {"Softmax"}:
            break
        for factor in node.input:
            if factor and factor not in inside:
                shape = sizes.get(str(factor))
                if shape is None:
                    return attention
                if len(shape) > 1 and shape[-2] > 1:
                    per_query[str(factor)] = len(shape) - 2
        name = inside[0]
    return attention
