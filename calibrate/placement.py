"""Where Q and DQ go: the layers whose inputs are quantized, and the adds that join them.

TensorRT wants them on the inputs of weighted layers and on the identity input of a residual
add. ONNX Runtime's kernels for CPUs also want the outputs quantized: for that target both
inputs of such an add are. What foldcam grafted, and what carries no weights (norms,
softmax, products of two activations), stays in float.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import onnx

from foldcam.calibrate.graph import GraphView, is_grafted, name_of
from foldcam.runtime.system.errors import FoldcamError

Target = Literal["tensorrt", "cpu"]
TARGETS: tuple[Target, ...] = get_args(Target)

_PASSING = {"BatchNormalization", "Relu", "Clip", "Identity", "HardSwish"}
_QUANTIZERS = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
    "ConvInteger", "MatMulInteger",
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One weighted node.

    Attributes:
        name: in reports and for `--keep-float`.
        place: of its node in the graph.
        operator: Conv, Gemm or MatMul.
        source: its activation, which is quantized per tensor.
        weight: its constant, which is quantized per channel.
        axis: the weight's output channels.
    """

    name: str
    place: int
    operator: str
    source: str
    weight: str
    axis: int
    output: str


@dataclass(frozen=True)
class Join:
    """A residual add.

    Attributes:
        place: of its node in the graph.
        layer: the name of the layer that ends the branch: if that stays float, so does the add.
        inputs: positions of the inputs to quantize.
    """

    place: int
    layer: str
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """Every place in one graph that can be quantized, in the graph's order."""

    layers: tuple[Layer, ...]
    joins: tuple[Join, ...]

    def tensors(self, model: onnx.ModelProto) -> list[str]:
        """The activations that are quantized, each once, in the graph's order."""
        named = [layer.source for layer in self.layers]
        for join in self.joins:
            named += [model.graph.node[join.place].input[position] for position in join.inputs]
        return list(dict.fromkeys(named))


def find_placement(model: onnx.ModelProto, target: Target = "tensorrt") -> Placement:
    """Look for layers and residual adds in the network's part of a folded model.

    Args:
        model: folded, in float32.
    """
    view = GraphView(model)
    for node in model.graph.node:
        if node.op_type in _QUANTIZERS and not is_grafted(node):
            raise FoldcamError(
                f"The model is quantized already ({node.op_type}, node {name_of(node)}): "
                "calibrate the float32 model that it was made from."
            )
    found = (_layer(view, place, node) for place, node in enumerate(model.graph.node))
    layers = tuple(layer for layer in found if layer is not None)
    if not layers:
        raise FoldcamError(
            "The network has no Conv, Gemm or MatMul with constant float32 weights, so that there "
            "is nothing to quantize."
        )
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        layers = tuple(
            layer if names.count(layer.name) == 1 else replace(layer, name=layer.output)
            for layer in layers
        )
    by_output = {layer.output: layer for layer in layers}
    joins = (
        _join(view, place, node, by_output, target) for place, node in enumerate(model.graph.node)
    )
    return Placement(layers, tuple(join for join in joins if join is not None))


def _layer(view: GraphView, place: int, node: onnx.NodeProto) -> Layer | None:
    if is_grafted(node) or node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain:
        return None
    source, weight = node.input[0], node.input[1]
    values = view.floats(weight)
    if values is None or view.is_constant(source) or values.size == 0:
        return None
    if node.op_type == "Conv":
        axis = 0
    elif node.op_type == "Gemm":
        if any(a.name == "transA" and a.i for a in node.attribute):
            return None
        axis = 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    else:
        if values.ndim != 2:
            return None
        axis = 1
    return Layer(name_of(node), place, node.op_type, source, weight, axis, node.output[0])


def _join(
    view: GraphView, place: int, node: onnx.NodeProto, by_output: dict[str, Layer], target: Target
) -> Join | None:
    if node.op_type != "Add" or is_grafted(node) or len(node.input) != 2:
        return None
    if any(name not in view.producers or view.is_constant(name) for name in node.input):
        return None
    ends = [_conv_before(view, name, by_output) for name in node.input]
    branches = [position for position in (0, 1) if ends[position] is not None]
    if not branches:
        return None
    # Of two branches the later one ends in the convolution that is fused with the add.
    last = max(branches, key=lambda position: view.places[node.input[position]])
    layer = ends[last]
    assert layer is not None
    return Join(place, layer.name, (0, 1) if target == "cpu" else (1 - last,))


def _conv_before(view: GraphView, name: str, by_output: dict[str, Layer]) -> Layer | None:
    for _ in range(4):
        layer = by_output.get(name)
        if layer is not None:
            return layer if layer.operator == "Conv" else None
        node = view.producers.get(name)
        if node is None or node.op_type not in _PASSING or is_grafted(node):
            return None
        name = node.input[0]
    return None
