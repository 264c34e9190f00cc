"""Cross-layer equalization: channels of one activation brought to similar ranges.

A scale per channel is divided out of the layer before an activation and multiplied into the
layers that read it (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and
Bias Correction"). Weights have a scale per output channel here, so that only the activation,
which has one for all, and the readers' input channels count: ranges are evened out fully
before depthwise convolutions, which lose nothing by it, and by the square root elsewhere
(Xiao et al. 2023, "SmoothQuant", alpha 0.5; there behind a LayerNormalization).

Scales are powers of two, so that the float network's answers stay the same to the bit where
the function between is homogeneous (ReLU, leaky ones, none). A Clip's upper bound is not: a
channel that reaches it keeps its scale, and the others stay below it on the images of the
calibration, so that an answer changes only where another image exceeds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from calibrate.graph import Floats, GraphView, is_grafted
from calibrate.placement import Layer, Placement
from calibrate.statistics import Activation
from export.onnx_graphs.names import drop_unused_constants

Doubles = npt.NDArray[np.float64]

_HOMOGENEOUS = {"Relu", "LeakyRelu", "Identity"}
_PRODUCERS = {"Conv", "Gemm", "LayerNormalization"}
# A channel that is nearly dead is not worth more, and float16 and float32 stay far from their ends.
_MOST = 256.0
# A channel counts as clipped from this share of the bound on, and the others stay below it.
_REACHED, _HEADROOM = 0.999, 0.9
_LONGEST = 4


@dataclass(frozen=True)
class Pair:
    """An activation between one layer and the layers that read it.

    Attributes:
        source: the activation.
        producer: position of the node in whose constants the scales are divided out.
        readers: the layers into whose weights they are multiplied.
        bound: of a Clip between, else None.
    """

    source: str
    producer: int
    readers: tuple[Layer, ...]
    bound: float | None


def find_pairs(model: onnx.ModelProto, placement: Placement) -> list[Pair]:
    """Activations that can be equalized, in the graph's order."""
    view = GraphView(model)
    reads: dict[str, int] = {value.name: 1 for value in model.graph.output}
    for node in model.graph.node:
        for name in node.input:
            reads[name] = reads.get(name, 0) + 1
    by_source: dict[str, list[Layer]] = {}
    for layer in placement.layers:
        by_source.setdefault(layer.source, []).append(layer)
    pairs = []
    for source, readers in by_source.items():
        # Nobody else may read it; the same number also says that nobody reads it twice.
        if reads.get(source, 0) == len(readers):
            found = _producer(view, source, reads)
            if found is not None:
                pairs.append(Pair(source, found[0], tuple(readers), found[1]))
    return pairs


def equalized(
    model: onnx.ModelProto, pairs: list[Pair], found: Mapping[str, Activation]
) -> tuple[onnx.ModelProto, int]:
    """A copy with evened-out ranges.

    Args:
        model: folded, float32.
        pairs: of that model.
        found: statistics of their activations.

    Returns:
        The copy, and how many activations were changed in it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    changed = 0
    for pair in pairs:
        view = GraphView(copy)
        weights = [view.floats(copy.graph.node[layer.place].input[1]) for layer in pair.readers]
        ranges = found[pair.source].channel_greatest
        if any(weight is None for weight in weights):
            continue
        per_reader = [
            _input_ranges(layer, weight, len(ranges))
            for layer, weight in zip(pair.readers, weights, strict=True)
            if weight is not None
        ]
        if any(inputs is None for inputs in per_reader):
            continue
        inputs = np.max([inputs for inputs in per_reader if inputs is not None], axis=0)
        scales = scales_for(ranges, inputs, alone=_all_depthwise(pair, weights), bound=pair.bound)
        if (scales == 1).all():
            continue
        _divide(copy, view, copy.graph.node[pair.producer], scales)
        for layer, weight in zip(pair.readers, weights, strict=True):
            assert weight is not None
            spread = _along_inputs(layer, weight, scales)
            _replace(copy, copy.graph.node[layer.place], 1, weight * spread)
        changed += 1
    drop_unused_constants(copy.graph)
    return copy, changed


def scales_for(
    ranges: npt.ArrayLike, inputs: npt.ArrayLike, *, alone: bool, bound: float | None
) -> Doubles:
    """What each channel of an activation is divided by: powers of two, `float64 [C]`.

    Args:
        ranges: `[C]`, greatest magnitude of each channel.
        inputs: `[C]`, greatest magnitude of the readers' weights for it.
        alone: whether every weight of the readers belongs to one channel.
        bound: of a Clip behind which the activation lies.
    """
    r, w = np.asarray(ranges, np.float64), np.asarray(inputs, np.float64)
    scales = np.ones_like(r)
    used = (r > 0) & (w > 0)
    if not used.any():
        return scales
    wanted = r[used] if alone else np.sqrt(r[used] / w[used])
    # The greatest range stays what it is.
    wanted = wanted * (r[used] / wanted).max() / r[used].max()
    if bound is not None:
        wanted = np.maximum(wanted, r[used] / (_HEADROOM * bound))
    scales[used] = 2.0 ** np.ceil(np.log2(np.clip(wanted, 1 / _MOST, _MOST)) - 1e-9)
    if bound is not None:
        scales[r >= _REACHED * bound] = 1.0
    return scales


def _producer(
    view: GraphView, name: str, reads: Mapping[str, int]
) -> tuple[int, float | None] | None:
    bound: float | None = None
    for _ in range(_LONGEST):
        node = view.producers.get(name)
        if node is None or is_grafted(node) or node.domain:
            return None
        if node.op_type in _PRODUCERS:
            return (view.places[name], bound) if _divisible(view, node) else None
        if node.op_type == "Clip":
            low, high = (_scalar(view, node, position) for position in (1, 2))
            # A lower bound of zero is ReLU's; another would have to be scaled, too.
            if low != 0.0 or high is None or high <= 0:
                return None
            bound = high if bound is None else min(bound, high)
        elif node.op_type not in _HOMOGENEOUS:
            return None
        name = node.input[0]
        if reads.get(name, 0) != 1:
            return None
    return None


def _divisible(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether its outputs follow constants, one per channel."""
    names = [name for name in node.input[1:] if name]
    if not names or any(view.floats(name) is None for name in names):
        return False
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "LayerNormalization":
        return "axis" not in attributes or attributes["axis"].i == -1
    return "transA" not in attributes or not attributes["transA"].i


def _scalar(view: GraphView, node: onnx.NodeProto, position: int) -> float | None:
    if len(node.input) <= position or not node.input[position]:
        return None
    value = view.floats(node.input[position])
    return None if value is None or value.size != 1 else float(value.reshape(-1)[0])


def _groups(layer: Layer, weight: Floats, channels: int) -> int:
    return channels // weight.shape[1] if layer.operator == "Conv" else 1


def _input_ranges(layer: Layer, weight: Floats, channels: int) -> Doubles | None:
    magnitudes = np.abs(weight).astype(np.float64)
    if layer.operator != "Conv":
        inputs = magnitudes.max(axis=layer.axis)
        return inputs if len(inputs) == channels else None
    if channels % weight.shape[1]:
        return None
    groups = _groups(layer, weight, channels)
    flat = magnitudes.reshape(groups, -1, weight.shape[1], int(np.prod(weight.shape[2:])))
    return np.asarray(flat.max(axis=(1, 3)).reshape(-1), np.float64)


def _all_depthwise(pair: Pair, weights: list[Floats | None]) -> bool:
    return all(
        layer.operator == "Conv" and weight is not None and weight.shape[1] == 1
        for layer, weight in zip(pair.readers, weights, strict=True)
    )


def _along_inputs(layer: Layer, weight: Floats, scales: Doubles) -> Floats:
    """The scales in the weight's shape or one that broadcasts to it."""
    if layer.operator != "Conv":
        shape = (1, -1) if layer.axis == 0 else (-1, 1)
        return scales.reshape(shape).astype(np.float32)
    groups = _groups(layer, weight, len(scales))
    rows = np.repeat(scales.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2)).astype(np.float32)


def _divide(model: onnx.ModelProto, view: GraphView, node: onnx.NodeProto, scales: Doubles) -> None:
    for position, name in enumerate(node.input):
        value = view.floats(name) if position and name else None
        if value is None:
            continue
        shape = [-1]
        if node.op_type == "Conv" and position == 1:
            shape = [-1] + [1] * (value.ndim - 1)
        elif node.op_type == "Gemm" and position == 1:
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            shape = [-1, 1] if turned else [1, -1]
        divided = value / scales.reshape(shape)
        _replace(model, node, position, divided.astype(np.float32))


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, position: int, value: Floats) -> None:
    """The node gets a constant of its own: others may read the old one."""
    name = node.input[position]
    own = name if name.endswith(".equalized") else f"{node.output[0]}.{position}.equalized"
    stored = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), own)
    for tensor in model.graph.initializer:
        if tensor.name == own:
            tensor.CopyFrom(stored)
            return
    model.graph.initializer.append(stored)
    node.input[position] = own
