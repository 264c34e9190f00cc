"""The normalisation's input in ONNX graphs built by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from foldcam.export.onnx_graphs.normalization import find_normalization

CONSTANTS = {
    "axes": np.array([1], np.int64),
    "tiny": np.array(1e-12, np.float32),
    "two": np.array(2.0, np.float32),
    "three": np.array(3.0, np.float32),
    "half": np.array(0.5, np.float32),
    "scale": np.array([16.0], np.float32),
    "negative": np.array(-16.0, np.float32),
    "per_channel": np.array([1.0, 2.0, 3.0], np.float32),
    "row": np.array([-1, 3], np.int64),
    "shape": np.array([1, 3], np.int64),
}
# Each graph ends in `embedding`; the network's own output before it is `z`.
FOUND = {
    "LpNormalization": ["LpNormalization z -> embedding p=2 axis=1"],
    "LpNormalization by default": ["LpNormalization z -> embedding axis=1"],
    "ReduceL2, Clip, Expand, Div": [
        "ReduceL2 z,axes -> n",
        "Clip n,tiny -> c",
        "Expand c,shape -> e",
        "Div z,e -> embedding",
    ],
    "ReduceSumSquare, Sqrt, Div": [
        "ReduceSumSquare z,axes -> q",
        "Sqrt q -> n",
        "Div z,n -> embedding",
    ],
    "Mul by Reciprocal": [
        "ReduceL2 z,axes -> n",
        "Reciprocal n -> r",
        "Mul z,r -> embedding",
    ],
    "Mul from the left": [
        "Mul z,z -> s",
        "ReduceSum s,axes -> q",
        "Sqrt q -> n",
        "Reciprocal n -> r",
        "Mul r,z -> embedding",
    ],
    "Pow, ReduceSum, Add, Pow": [
        "Pow z,two -> s",
        "ReduceSum s,axes -> q",
        "Add q,tiny -> a",
        "Pow a,half -> n",
        "Div z,n -> embedding",
    ],
    "ReduceL2, Max, Div, Reshape": [
        "ReduceL2 z,axes -> n",
        "Max n,tiny -> m",
        "Div z,m -> u",
        "Reshape u,row -> embedding",
    ],
    "scaled": ["ReduceL2 z,axes -> n", "Div z,n -> u", "Mul u,scale -> embedding"],
    "scaled from the left": ["ReduceL2 z,axes -> n", "Div z,n -> u", "Mul two,u -> embedding"],
    "the root of the mean of squares": [
        "Mul z,z -> s",
        "ReduceMean s,axes -> q",
        "Sqrt q -> n",
        "Div z,n -> embedding",
    ],
    "Mul by one over it": [
        "ReduceL2 z,axes -> n",
        "Div half,n -> r",
        "Mul z,r -> embedding",
    ],
    "over a temperature": ["ReduceL2 z,axes -> n", "Div z,n -> u", "Div u,half -> embedding"],
}
NOT_FOUND = {
    "no normalisation": ["Identity z -> embedding"],
    "L1": ["LpNormalization z -> embedding p=1 axis=1"],
    "a softmax by hand": ["Exp z -> x", "ReduceSum x,axes -> q", "Div x,q -> embedding"],
    "divided by its sum": ["ReduceSum z,axes -> q", "Div z,q -> embedding"],
    "divided by its maximum": ["ReduceMax z,axes -> q", "Div z,q -> embedding"],
    "gated": ["ReduceL2 z,axes -> n", "Sigmoid n -> g", "Mul z,g -> embedding"],
    "by the norm of another tensor": [
        "Exp z -> x",
        "ReduceL2 x,axes -> n",
        "Div z,n -> embedding",
    ],
    "its own square": ["Mul z,z -> embedding"],
    "over a constant": ["Div z,two -> embedding"],
    "scaled per channel": [
        "ReduceL2 z,axes -> n",
        "Div z,n -> u",
        "Mul u,per_channel -> embedding",
    ],
    "turned round": ["ReduceL2 z,axes -> n", "Div z,n -> u", "Mul u,negative -> embedding"],
}
OTHER_POWERS = {
    "cubes": [
        "Pow z,three -> s",
        "ReduceSum s,axes -> q",
        "Sqrt q -> n",
        "Div z,n -> embedding",
    ],
    "the squared norm": ["ReduceSumSquare z,axes -> q", "Div z,q -> embedding"],
    "times the norm": ["ReduceL2 z,axes -> n", "Mul z,n -> embedding"],
}


@pytest.mark.parametrize("name", FOUND)
def test_the_normalisation_is_found(name, hand_built):
    assert find_normalization(_graph(FOUND[name], hand_built), "embedding") == "z"


@pytest.mark.parametrize("name", NOT_FOUND)
def test_what_is_no_normalisation_is_not_taken_for_one(name, hand_built):
    assert find_normalization(_graph(NOT_FOUND[name], hand_built), "embedding") is None


@pytest.mark.parametrize("name", OTHER_POWERS)
def test_what_keeps_the_direction_but_not_the_norm_is_no_normalisation(name, hand_built):
    assert find_normalization(_graph(OTHER_POWERS[name], hand_built), "embedding") is None


def _graph(lines, hand_built):
    nodes = [helper.make_node("Gemm", ["flat", "fc"], ["z"])]
    nodes.insert(0, helper.make_node("Flatten", ["image"], ["flat"]))
    used = {"fc": np.ones((6, 3), np.float32)}
    for line in lines:
        op, inputs, _, output, *settings = line.split()
        names = inputs.split(",")
        used.update({name: CONSTANTS[name] for name in names if name in CONSTANTS})
        attributes = {key: int(value) for key, value in (s.split("=") for s in settings)}
        nodes.append(helper.make_node(op, names, [output], **attributes))
    return hand_built.model(nodes, used, {"embedding": [3]}, (3, 1, 2)).graph
