"""Nodes beside a network's own that make the summands of its sum over positions.

The network's nodes stay as they are, so that what TensorRT fuses stays fused.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from foldcam.export.networks.feature_map import Layout
from foldcam.export.networks.onnx_networks.attention import Attention
from foldcam.export.networks.onnx_networks.summands import Summation
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP, FEATURE_SUM
from foldcam.export.onnx_graphs.values import PREPARED, rename
from foldcam.export.onnx_graphs.writing import NetworkNodes
from foldcam.runtime.contract.schema import EMBEDDING

_OF_SUMMANDS = f"{PREPARED}summands."


def add_summands(model: onnx.ModelProto, summation: Summation, kind: int) -> None:
    """Compute the summands as the value `feature_map`, and call their sum `feature_sum`."""
    direct = (
        summation.kind == "pool" and summation.layout.kind == "nchw" and kind == TensorProto.FLOAT
    )
    source = FEATURE_MAP if direct else summation.source
    names = {summation.total: FEATURE_SUM}
    if direct:
        names[summation.source] = FEATURE_MAP
    add = NetworkNodes(model.graph, _OF_SUMMANDS, (FEATURE_MAP, EMBEDDING))
    rename(model.graph, names, [FEATURE_MAP, FEATURE_SUM])
    if summation.total == EMBEDDING:
        # The network ends in the sum itself.
        add.node("Identity", [FEATURE_SUM], EMBEDDING)
    if direct:
        return
    if summation.attention is not None:
        columns = _weighted_values(add, summation.attention, summation.layout)
    elif summation.kind == "linear":
        columns = _linear(add, _columns(add, source, summation), summation)
    else:
        columns = _columns(add, source, summation)
        if summation.kind == "depthwise":
            columns = _depthwise(add, columns, summation)
    shape = add.integers("shape", [-1, *summation.shape])
    if kind == TensorProto.FLOAT:
        add.node("Reshape", [columns, shape], FEATURE_MAP)
    else:
        halves = add.node("Reshape", [columns, shape], "halves")
        add.node("Cast", [halves], FEATURE_MAP, to=TensorProto.FLOAT)


def _columns(add: NetworkNodes, source: str, summation: Summation) -> str:
    """The map as `[N, K, h * w]`."""
    layout = summation.layout
    channels, height, width = layout.shape
    positions = height * width
    if layout.kind == "nchw" or summation.in_columns:
        return add.node(
            "Reshape", [source, add.integers("flat", [-1, channels, positions])], "columns"
        )
    rows = add.node("Reshape", [source, add.integers("flat", [-1, positions, channels])], "rows")
    return add.node("Transpose", [rows], "columns", perm=[0, 2, 1])


def _depthwise(add: NetworkNodes, columns: str, summation: Summation) -> str:
    """`w_p * A_p`: `[N, K, 1, P] * [K, m, P]`, for m kernels a channel."""
    channels, height, width = summation.layout.shape
    positions, each = height * width, summation.shape[0] // channels
    kernel = add.node(
        "Reshape",
        [summation.weights, add.integers("kernel_shape", [channels, each, positions])],
        "kernel",
    )
    apart = add.integers("apart", [-1, channels, 1, positions])
    return add.node("Mul", [add.node("Reshape", [columns, apart], "channels"), kernel], "weighted")


def _linear(add: NetworkNodes, columns: str, summation: Summation) -> str:
    """`W_p A_p`: `[N, P, 1, K] x [P, K, K']`, with the network's own weights."""
    channels, height, width = summation.layout.shape
    positions, outputs = height * width, summation.shape[0]
    sizes = {summation.weights_axes[0]: positions, summation.weights_axes[1]: channels}
    sizes[summation.weights_axes[2]] = outputs
    cube = add.integers("cube", [sizes[axis] for axis in range(3)])
    apart = add.node("Reshape", [summation.weights, cube], "weights_apart")
    weights = add.node("Transpose", [apart], "weights", perm=list(summation.weights_axes))
    rows = add.node("Transpose", [columns], "positions", perm=[0, 2, 1])
    each = add.integers("each_position", [-1, positions, 1, channels])
    vectors = add.node("Reshape", [rows, each], "vectors")
    products = add.node("MatMul", [vectors, weights], "products")
    table = add.integers("products_shape", [-1, positions, outputs])
    by_position = add.node("Reshape", [products, table], "by_position")
    return add.node("Transpose", [by_position], "by_output", perm=[0, 2, 1])


def _weighted_values(add: NetworkNodes, attention: Attention, layout: Layout) -> str:
    """Weight times value of the patches, `[N, H, d, P]`."""
    weights = _weights_of_row(add, attention)
    first, last, axis = layout.skipped, attention.tokens, attention.rank - 1
    values = attention.values
    if first:
        weights = add.slice(weights, "patch_weights", axis, first, last)
        values = add.slice(values, "patch_values", axis - 1, first, last)
    order = [0, 2, 1] if attention.rank == 3 else [0, 1, 3, 2]
    turned = add.node("Transpose", [values], "value_columns", perm=order)
    return add.node("Mul", [turned, weights], "weighted")


def _weights_of_row(add: NetworkNodes, attention: Attention) -> str:
    """The softmax's row of the one query, `[..., 1, P]`."""
    row, axis = attention.row, attention.rank - 2
    if not attention.steps:
        if attention.queries == 1:
            return attention.weights
        return add.slice(attention.weights, "weights_of_query", axis, row, row + 1)
    made = {
        attention.queries_input: add.slice(attention.queries_input, "query", axis, row, row + 1)
    }
    for number, (name, rows) in enumerate(attention.per_query):
        made[name] = add.slice(name, f"factor_{number}", rows, row, row + 1)
    for number, node in enumerate(attention.steps):
        inputs = [made.get(str(name), str(name)) for name in node.input]
        made[str(node.output[0])] = add.copy(node, inputs, f"attention_{number}")
    return made[attention.weights]
