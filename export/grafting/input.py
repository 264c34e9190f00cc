"""Grafting the input: uint8 images, normalised in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.onnx_graphs.embedding_model import BATCH
from foldcam.export.onnx_graphs.values import (
    attributes_of,
    drop_unused_constants,
    refill,
    tensors_of,
)
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import IMAGE
from foldcam.runtime.images.preprocess import Preprocessing

PIXELS = PREFIX + "pixels"
PLANES = PREFIX + "planes"
"""Of uint8 images as numbers from 0 to 255, in the order of bytes and as planes."""


def graft_uint8_input(graft: Graft, preprocessing: Preprocessing) -> None:
    """`uint8 [N,H,W,3]` RGB -> the network's float input; the cast comes first for TensorRT.

    The normalisation goes into the network's first convolution where that is exact.
    """
    first = first_convolution(graft.graph)
    swaps_channels = preprocessing.color == "bgr"
    rest: list[float] | None = None
    if first is not None:
        std = np.asarray(preprocessing.std, np.float64)
        scale, shift = 1 / (255 * std), -np.asarray(preprocessing.mean, np.float64) / std
        # Channels of their own weights have outputs of their own: they cannot be swapped there.
        absorbs_swap = swaps_channels and first.group == 1
        rest = first.absorb(graft, scale, shift, [2, 1, 0] if absorbs_swap else [0, 1, 2])
        swaps_channels = swaps_channels and not absorbs_swap
    existing = list(graft.graph.node)
    del graft.graph.node[:]
    floats = graft.node("Cast", [IMAGE], PIXELS, to=TensorProto.FLOAT)
    inner = graft.node("Transpose", [floats], PLANES, perm=[0, 3, 1, 2])
    if swaps_channels:
        order = graft.constant("bgr", [2, 1, 0], np.int64)
        inner = graft.node("Gather", [inner, order], PREFIX + "ordered", axis=1)
    if rest is None:
        scales, shifts = preprocessing.scale_and_shift()
        inner = graft.node("Mul", [inner, _constant(graft, "scale", scales)], PREFIX + "scaled")
        inner = _add(graft, inner, shifts)
    elif any(rest):
        inner = _add(graft, inner, rest)
    for node in existing:
        for position, name in enumerate(node.input):
            if name == IMAGE:
                node.input[position] = inner
    graft.graph.node.extend(existing)
    image = next(value for value in graft.graph.input if value.name == IMAGE)
    image.CopyFrom(
        helper.make_tensor_value_info(
            IMAGE, TensorProto.UINT8, [BATCH, preprocessing.height, preprocessing.width, 3]
        )
    )


def _add(graft: Graft, planes: str, shifts: npt.ArrayLike) -> str:
    return graft.node("Add", [planes, _constant(graft, "shift", shifts)], PREFIX + "network_input")


def _constant(graft: Graft, name: str, values: npt.ArrayLike) -> str:
    """One value per channel."""
    return graft.constant(f"input_{name}", np.reshape(values, (1, 3, 1, 1)), np.float32)


Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FirstConvolution:
    """The only step that reads the image, a convolution with constant weights.

    With `x' = s x + b` per channel, `conv(x') = conv_s(x + b / s)`, where `conv_s` has its weights
    times `s`. Padding stays exact, because it adds zeros to `x + b / s` as it would to `x'`.
    Without padding every position sees the same `b`, which then belongs into the bias.

    Attributes:
        weights: `float32 [O, 3 / group, ...]`.
        bias: `float32 [O]`; zeros where it has none.
        group: 1, or 3 where each channel has weights of its own.
        padded: whether it may add zeros around the image.
    """

    node: onnx.NodeProto
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    group: int
    padded: bool

    def absorb(self, graft: Graft, scale: Floats, shift: Floats, order: list[int]) -> list[float]:
        """Take over scale, shift and order of the channels.

        Args:
            scale, shift: `float64 [3]`, for the channels in the network's order.
            order: the image's channel that each of the network's channels takes; must be
                `[0, 1, 2]` where `group` is not 1.
        """
        outputs = len(self.weights)
        if self.group == 1:
            per_weight = np.broadcast_to(scale, (outputs, 3))
            shifts = np.broadcast_to(shift, (outputs, 3))
        else:
            # Output `o` reads the one channel of its group.
            own = np.arange(outputs) * self.group // outputs
            per_weight, shifts = scale[own][:, None], shift[own][:, None]
        exact = self.weights.astype(np.float64)
        spread = (1,) * (exact.ndim - 2)
        scaled = exact * per_weight.reshape(*per_weight.shape, *spread)
        if self.group == 1:
            scaled[:, order] = scaled.copy()
        inputs = [IMAGE, graft.constant("first_weights", scaled, np.float32)]
        bias = self.bias.astype(np.float64)
        rest = np.zeros(3)
        if self.padded:
            rest[order] = shift / scale
        else:
            bias += (exact * shifts.reshape(*shifts.shape, *spread)).reshape(outputs, -1).sum(1)
        if bias.any():
            inputs.append(graft.constant("first_bias", bias, np.float32))
        replaced = list(self.node.input)
        refill(self.node.input, inputs)
        drop_unused_constants(graft.graph, replaced)
        return [float(value) for value in rest]


def first_convolution(graph: onnx.GraphProto) -> FirstConvolution | None:
    """The convolution that alone reads the image's values, if it can absorb a normalisation.

    Returns:
        None where something else reads the image as well, or the weights are no float32
        constants.
    """
    # Its shape does not depend on its values.
    readers = [node for node in graph.node if IMAGE in node.input and node.op_type != "Shape"]
    given_away = any(value.name == IMAGE for value in graph.output)
    if len(readers) != 1 or readers[0].op_type != "Conv" or given_away:
        return None
    node = readers[0]
    arrays = [_stored(graph, name) for name in node.input[1:] if name]
    if any(array is None for array in arrays) or node.input[0] != IMAGE:
        return None
    weights, *bias = [array for array in arrays if array is not None]
    settings = attributes_of(node)
    group = settings.get("group", 1)
    if group not in (1, 3):
        return None
    return FirstConvolution(
        node,
        weights,
        bias[0] if bias else np.zeros(len(weights), np.float32),
        group,
        padded=_padded(settings),
    )


def _padded(settings: dict[str, Any]) -> bool:
    auto = settings.get("auto_pad", b"NOTSET").decode()
    if auto == "NOTSET":
        return any(settings.get("pads", []))
    return bool(auto != "VALID")


def _stored(graph: onnx.GraphProto, name: str) -> npt.NDArray[np.float32] | None:
    tensor = tensors_of(graph).get(name)
    if tensor is None or tensor.data_type != TensorProto.FLOAT:
        return None
    return np.asarray(numpy_helper.to_array(tensor), np.float32)
