"""Explicit Q and DQ in a folded model.

For TensorRT: symmetric int8, zero point 0, one scale per activation and one per output channel
of a weight; biases stay float32, because a DequantizeLinear of an int32 bias is refused. Every
node has a name of its own, which TensorRT-RTX demands.

For CPUs the activations are uint8: ONNX Runtime folds a ReLU or Clip into a quantized
convolution only where the least level is 0, which symmetric int8 never has. Such a file is for
ONNX Runtime alone. Its zero points are 0, or 128 where an activation has both signs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.calibrate.graph import GraphView, is_grafted
from foldcam.calibrate.placement import Layer, Placement, Target
from foldcam.export.onnx_graphs.precision import to_float16
from foldcam.export.onnx_graphs.values import drop_unused_constants, refill
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int8]

LEVELS = 127
"""The greatest int8 that is used: the range is symmetric, so that -128 is not."""
UNSIGNED_LEVELS = 255
# A channel of zeros needs some scale above zero.
_LEAST_SCALE = 1e-10


@dataclass(frozen=True)
class Step:
    """How an activation is rounded: `level = round(value / scale) + zero_point`.

    Attributes:
        scale: of one level.
        zero_point: 0 or 128.
        unsigned: whether levels are uint8.
    """

    scale: float
    zero_point: int = 0
    unsigned: bool = False

    @property
    def zero(self) -> npt.NDArray[np.generic]:
        """The zero point as a scalar of the levels' type."""
        return np.asarray(self.zero_point, np.uint8 if self.unsigned else np.int8)


def step_for(threshold: float, *, negative: bool, target: Target) -> Step:
    """The step of an activation whose magnitudes are cut at a threshold."""
    if target == "tensorrt":
        return Step(max(threshold / LEVELS, _LEAST_SCALE))
    if negative:
        return Step(max(threshold / LEVELS, _LEAST_SCALE), 128, unsigned=True)
    return Step(max(threshold / UNSIGNED_LEVELS, _LEAST_SCALE), 0, unsigned=True)


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized.

    Attributes:
        steps: activation -> how it is rounded.
        kept: names of layers that stay in float.
        biases: layer -> what is added to its bias, `float32 [channels]`.
        levels: layer -> its weight in levels, `int8` of the weight's shape, for the scales of
            `weight_scales`; the nearest levels where a layer has none.
    """

    steps: Mapping[str, Step]
    kept: frozenset[str] = frozenset()
    biases: Mapping[str, Floats] = field(default_factory=dict)
    levels: Mapping[str, Levels] = field(default_factory=dict)

    def rounded(self, layer: Layer, weight: Floats) -> tuple[Levels, Floats]:
        """The weight in levels, `int8` of its shape, and its scales `float32 [channels]`."""
        scales = weight_scales(weight, layer.axis)
        levels = self.levels.get(layer.name)
        return nearest_levels(weight, layer.axis, scales) if levels is None else levels, scales


def quantize(model: onnx.ModelProto, placement: Placement, recipe: Recipe) -> onnx.ModelProto:
    """Put Q and DQ into a copy of the model.

    Args:
        model: folded, float32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    writer = _Writer(copy, recipe)
    chosen = [layer for layer in placement.layers if layer.name not in recipe.kept]
    names = {layer.name for layer in chosen}
    view = GraphView(model)
    for layer in chosen:
        weight = view.floats(layer.weight)
        assert weight is not None
        node = copy.graph.node[layer.place]
        node.input[1] = writer.weight(layer, weight)
        node.input[0] = writer.activation(layer.source)
        if layer.name in recipe.biases:
            _add_to_bias(copy, view, node, layer, recipe.biases[layer.name])
    for join in placement.joins:
        if join.layer in names:
            node = copy.graph.node[join.place]
            for position in join.inputs:
                node.input[position] = writer.activation(node.input[position])
    writer.finish()
    drop_unused_constants(copy.graph, {layer.weight for layer in chosen})
    return copy


def quantize_activation(
    model: onnx.ModelProto, tensor: str, scale_input: str, step: Step
) -> onnx.ModelProto:
    """A copy in which one activation alone is quantized, by a scale that is a graph input.

    Args:
        model: folded, float32.
        scale_input: name of the new input, `float32 []`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == tensor:
                node.input[position] = f"{tensor}.rounded"
    zero = f"{scale_input}.zero"
    graph.initializer.append(numpy_helper.from_array(step.zero, zero))
    graph.input.append(helper.make_tensor_value_info(scale_input, TensorProto.FLOAT, []))
    levels, rounded = f"{tensor}.levels", f"{tensor}.rounded"
    nodes = [
        helper.make_node("QuantizeLinear", [tensor, scale_input, zero], [levels]),
        helper.make_node("DequantizeLinear", [levels, scale_input, zero], [rounded]),
    ]
    _insert(graph, {tensor: nodes})
    return copy


def weight_scales(weight: Floats, axis: int) -> Floats:
    """One scale per output channel: its greatest magnitude over 127."""
    others = tuple(a for a in range(weight.ndim) if a != axis)
    greatest = np.abs(weight).max(axis=others) if others else np.abs(weight)
    return np.maximum(greatest / LEVELS, _LEAST_SCALE).astype(np.float32)


def nearest_levels(weight: Floats, axis: int, scales: Floats) -> Levels:
    """Each number of a weight rounded to its nearest level."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    levels = np.clip(np.rint(weight / scales.reshape(shape)), -LEVELS, LEVELS)
    return np.asarray(levels, np.int8)


class _Writer:
    """Makes every pair once, and puts it after what it reads."""

    def __init__(self, model: onnx.ModelProto, recipe: Recipe) -> None:
        self._graph = model.graph
        self._recipe = recipe
        self._taken = {name for node in self._graph.node for name in (*node.output, node.name)}
        self._taken |= {tensor.name for tensor in self._graph.initializer}
        self._activations: dict[str, str] = {}
        self._after: dict[str, list[onnx.NodeProto]] = {}
        self._weights: dict[tuple[str, int], str] = {}
        self._zeros: dict[tuple[int, bool], str] = {}

    def activation(self, name: str) -> str:
        """Add Q and DQ of an activation; returns the rounded activation's name."""
        if name not in self._activations:
            step = self._recipe.steps[name]
            scale = self._constant(f"{name}.scale", np.float32(step.scale))
            zero = self._zero(step)
            levels, rounded = self._free(f"{name}.int8"), self._free(f"{name}.dequantized")
            self._after[name] = [
                helper.make_node(
                    "QuantizeLinear", [name, scale, zero], [levels], name=f"{levels}.q"
                ),
                helper.make_node(
                    "DequantizeLinear", [levels, scale, zero], [rounded], name=f"{rounded}.dq"
                ),
            ]
            self._activations[name] = rounded
        return self._activations[name]

    def weight(self, layer: Layer, weight: Floats) -> str:
        """Add the levels of a weight and their DQ; returns the rounded weight's name."""
        key = layer.weight, layer.axis
        if key not in self._weights:
            levels, scales = self._recipe.rounded(layer, weight)
            stored = self._constant(f"{layer.weight}.int8", levels)
            scale = self._constant(f"{layer.weight}.scales", scales)
            zero = self._constant(f"{layer.weight}.zeros", np.zeros(len(scales), np.int8))
            rounded = self._free(f"{layer.weight}.dequantized")
            node = helper.make_node(
                "DequantizeLinear",
                [stored, scale, zero],
                [rounded],
                name=f"{rounded}.dq",
                axis=layer.axis,
            )
            self._after.setdefault("", []).append(node)
            self._weights[key] = rounded
        return self._weights[key]

    def finish(self) -> None:
        """Write the nodes into the graph, in a topological order."""
        _insert(self._graph, self._after)

    def _zero(self, step: Step) -> str:
        key = step.zero_point, step.unsigned
        if key not in self._zeros:
            kind = "uint8" if step.unsigned else "int8"
            self._zeros[key] = self._constant(f"{kind}.zero_{step.zero_point}", step.zero)
        return self._zeros[key]

    def _constant(self, name: str, value: npt.NDArray[np.generic] | np.generic) -> str:
        free = self._free(name)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), free))
        return free

    def _free(self, name: str) -> str:
        if name in self._taken:
            raise FoldcamError(
                f"The model has a value named {name!r} already, which calibration needs: rename it."
            )
        self._taken.add(name)
        return name


def _insert(graph: onnx.GraphProto, after: Mapping[str, Collection[onnx.NodeProto]]) -> None:
    """Nodes behind the node that makes what they read; behind none of them means in front."""
    waiting = dict(after)
    made = {name for node in graph.node for name in node.output}
    nodes = [node for name in list(waiting) if name not in made for node in waiting.pop(name)]
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            nodes.extend(waiting.pop(name, ()))
    copies = []
    for node in nodes:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        copies.append(kept)
    refill(graph.node, copies)


def _add_to_bias(
    model: onnx.ModelProto, view: GraphView, node: onnx.NodeProto, layer: Layer, shift: Floats
) -> None:
    """The bias becomes a constant of its own, because others may share the old one."""
    has_bias = len(node.input) > 2 and bool(node.input[2])
    old = view.floats(node.input[2]) if has_bias else np.zeros(len(shift), np.float32)
    if old is None:
        return
    name = f"{layer.name}.bias_corrected"
    model.graph.initializer.append(
        numpy_helper.from_array((old.reshape(-1) + shift).astype(np.float32), name)
    )
    del node.input[2:]
    node.input.append(name)


_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
# Cheap steps that TensorRT joins with the quantized layer in front of them.
_JOINED = {
    "Add", "BatchNormalization", "Clip", "Div", "Erf", "Flatten", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Mul", "PRelu", "Relu", "Reshape", "Sigmoid", "Squeeze",
    "Sub", "Tanh", "Transpose", "Unsqueeze",
}  # fmt: skip


def with_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a quantized folded model whose other steps compute in float16.

    TensorRT 11 and RTX are strongly typed, so the types stand in the graph, with a cast where they
    change. Q, DQ and the quantized layers between them stay float32 on paper: their kernels take
    int8 and return it, and a cast between such a layer, its activation and the next Q would keep
    TensorRT from joining them.

    What foldcam grafted, sums and norms stay float32; see `export.onnx_graphs.float32_steps`.

    Args:
        model: folded, with Q and DQ in float32.
    """
    return to_float16(model, _held)


def float16_steps(model: onnx.ModelProto) -> int:
    """How many nodes compute in float16: those with such an output, casts aside."""
    halves = {
        tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16
    }
    steps = 0
    for node in model.graph.node:
        if node.op_type == "Cast":
            if any(a.name == "to" and a.i == TensorProto.FLOAT16 for a in node.attribute):
                halves.update(node.output)
        elif halves.intersection(node.input):
            halves.update(node.output)
            steps += 1
    return steps


def _held(graph: onnx.GraphProto) -> set[int]:
    held: set[int] = set()
    rounded: set[str] = set()
    quantized: set[str] = set()
    for position, node in enumerate(graph.node):
        if is_grafted(node):
            held.add(position)
        elif node.op_type in _QUANTIZERS:
            held.add(position)
            if node.op_type == "DequantizeLinear":
                rounded.update(node.output)
        elif rounded.intersection(node.input) or (
            node.op_type in _JOINED and quantized.intersection(node.input)
        ):
            held.add(position)
            quantized.update(node.output)
    return held
