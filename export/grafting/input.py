"""Grafting the input: uint8 images, normalised in the graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from foldcam.export.onnx_graphs.embedding_model import BATCH
from foldcam.export.onnx_graphs.first_convolution import first_convolution
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
