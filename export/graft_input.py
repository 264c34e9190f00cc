"""Grafting the input: uint8 images, normalised in the graph."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from export.embedding_model import BATCH
from export.graft import PREFIX, Graft
from runtime.contract import IMAGE
from runtime.preprocess import Preprocessing


def graft_uint8_input(graft: Graft, preprocessing: Preprocessing) -> None:
    """`uint8 [N,H,W,3]` RGB -> the network's float input; the cast comes first for TensorRT."""
    scale, shift = preprocessing.scale_and_shift()
    inner = PREFIX + "network_input"
    for node in graft.graph.node:
        for position, name in enumerate(node.input):
            if name == IMAGE:
                node.input[position] = inner
    existing = list(graft.graph.node)
    del graft.graph.node[:]
    floats = graft.node("Cast", [IMAGE], PREFIX + "pixels", to=TensorProto.FLOAT)
    planes = graft.node("Transpose", [floats], PREFIX + "planes", perm=[0, 3, 1, 2])
    if preprocessing.color == "bgr":
        order = graft.constant("bgr", [2, 1, 0], np.int64)
        planes = graft.node("Gather", [planes, order], PREFIX + "ordered", axis=1)
    scales = graft.constant("input_scale", scale.reshape(1, 3, 1, 1), np.float32)
    shifts = graft.constant("input_shift", shift.reshape(1, 3, 1, 1), np.float32)
    scaled = graft.node("Mul", [planes, scales], PREFIX + "scaled_pixels")
    graft.node("Add", [scaled, shifts], inner)
    graft.graph.node.extend(existing)
    image = next(value for value in graft.graph.input if value.name == IMAGE)
    image.CopyFrom(
        helper.make_tensor_value_info(
            IMAGE, TensorProto.UINT8, [BATCH, preprocessing.height, preprocessing.width, 3]
        )
    )
