"""Every rule gives torch's gradient, for each image of a batch at its own values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from foldcam.export.grafting.own import obstacle_to_pull_back
from foldcam.export.onnx_graphs.adjoints.rules import RULES

RNG = np.random.default_rng(7)


def _random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def _positive(*shape):
    return (np.abs(RNG.normal(size=shape)) + 0.5).astype(np.float32)


def _ints(*values):
    return np.array(values, np.int64)


ROWS, MAP, TOKENS = (6,), (6, 1, 1), (5, 6)
W, W2, B = _random(6, 4), _random(4, 6), _random(4)
NUMBER = np.float32(0.7)
NORM = {"s": _positive(6), "b": _random(6), "m": _random(6), "v": _positive(6)}

# lines from x to z, constants, the sizes of one image's x, opset
CASES = {
    **{
        name: ([f"{name} x -> z"], {}, ROWS, 17)
        for name in (
            *("Abs", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
            *("Neg", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Softsign", "Tanh"),
            *("Dropout", "Flatten"),
        )
    },
    **{
        name: (["Exp x -> e", f"{name} e -> z"], {}, ROWS, 17)
        for name in ("Log", "Reciprocal", "Sqrt")
    },
    "Mish": (["Mish x -> z"], {}, ROWS, 18),
    "Gelu": (["Gelu x -> z"], {}, ROWS, 20),
    "Gelu of tanh": (["Gelu x -> z approximate=tanh"], {}, ROWS, 20),
    "Swish": (["Swish x -> z alpha=0.7"], {}, ROWS, 24),
    "slopes": (["Elu x -> y alpha=0.3", "LeakyRelu y -> z alpha=0.4"], {}, ROWS, 17),
    "hard sigmoid": (["HardSigmoid x -> z alpha=0.3 beta=0.4"], {}, ROWS, 17),
    "PRelu": (["PRelu x,w -> z"], {"w": _random(6)}, ROWS, 17),
    "PRelu of a map": (["PRelu x,w -> z"], {"w": _random(6, 1, 1)}, MAP, 17),
    "PRelu whose slope depends": (["Tanh x -> t", "PRelu t,x -> z"], {}, ROWS, 17),
    "Clip": (
        ["Clip x,a,b -> z"],
        {"a": np.float32(-0.5), "b": np.float32(0.6)},
        ROWS,
        17,
    ),
    "Clip from below": (["Clip x,a -> z"], {"a": np.float32(-0.5)}, ROWS, 17),
    "Clip from above": (["Clip x,,b -> z"], {"b": np.float32(0.5)}, ROWS, 17),
    "Add": (["Add x,w -> z"], {"w": _random(6)}, ROWS, 17),
    "Add to itself": (["Add x,x -> z"], {}, ROWS, 17),
    "Sum": (["Tanh x -> t", "Sum x,t,w -> z"], {"w": _random(6)}, ROWS, 17),
    "Sub": (["Tanh x -> t", "Sub t,x -> z"], {}, ROWS, 17),
    "Mul": (["Tanh x -> t", "Mul x,t -> z"], {}, ROWS, 17),
    "square": (["Mul x,x -> z"], {}, ROWS, 17),
    "Div": (["Exp x -> e", "Div x,e -> z"], {}, ROWS, 17),
    "Div of a constant": (["Exp x -> e", "Div w,e -> z"], {"w": _random(6)}, ROWS, 17),
    "Max": (["Tanh x -> t", "Neg x -> n", "Max t,n -> z"], {}, ROWS, 17),
    "Min": (["Tanh x -> t", "Neg x -> n", "Min t,n -> z"], {}, ROWS, 17),
    "Where": (
        ["Greater x,w -> c", "Tanh x -> t", "Where c,t,x -> z"],
        {"w": np.float32(0.1)},
        ROWS,
        17,
    ),
    "Pow": (["Exp x -> e", "Pow e,w -> z"], {"w": np.float32(2.7)}, ROWS, 17),
    "Pow of 2": (["Pow x,w -> z"], {"w": np.float32(2)}, ROWS, 17),
    "Pow of 3": (["Pow x,w -> z"], {"w": _ints(3)}, ROWS, 17),
    "Pow per channel": (["Exp x -> e", "Pow e,w -> z"], {"w": _positive(6)}, ROWS, 17),
    "broadcast": (
        ["Mul x,w -> y", "ReduceMean y -> z axes=2,3 keepdims=0"],
        {"w": _random(6, 2, 3)},
        MAP,
        17,
    ),
    "gate": (
        ["ReduceSum x,a -> g keepdims=1", "Mul x,g -> z"],
        {"a": _ints(1)},
        ROWS,
        17,
    ),
    "Expand": (
        ["ReduceMean x -> m axes=1,1", "Expand m,n -> e", "Mul x,e -> z"],
        {"n": _ints(1, 6)},
        ROWS,
        17,
    ),
    "BatchNormalization": (["BatchNormalization x,s,b,m,v -> z epsilon=0.01"], NORM, ROWS, 17),
    "BatchNormalization of a map": (["BatchNormalization x,s,b,m,v -> z"], NORM, MAP, 17),
    "LayerNormalization": (
        ["LayerNormalization x,s,b -> z epsilon=0.01"],
        {"s": NORM["s"], "b": NORM["b"]},
        ROWS,
        17,
    ),
    "LayerNormalization of two axes": (
        ["LayerNormalization x,s -> z axis=1"],
        {"s": _positive(5, 6)},
        TOKENS,
        17,
    ),
    "RMSNormalization": (["RMSNormalization x,s -> z"], {"s": NORM["s"]}, ROWS, 23),
    "LpNormalization": (
        ["LpNormalization x -> u axis=1 p=2", "MatMul u,w -> z"],
        {"w": W},
        ROWS,
        17,
    ),
    "L1": (["LpNormalization x -> z axis=1 p=1"], {}, ROWS, 17),
    "MatMul": (["MatMul x,w -> z"], {"w": W}, ROWS, 17),
    "MatMul of tokens": (["MatMul x,w -> z"], {"w": W}, TOKENS, 17),
    "MatMul with itself": (
        ["Transpose x -> t perm=0,2,1", "MatMul x,t -> z"],
        {},
        TOKENS,
        17,
    ),
    "MatMul of a second factor": (["MatMul w,x -> z"], {"w": _random(3, 5)}, TOKENS, 17),
    "Gemm": (["Gemm x,w,b -> z"], {"w": W, "b": B}, ROWS, 17),
    "Gemm transposed": (
        ["Gemm x,w,b -> z transB=1 alpha=0.5 beta=2.0"],
        {"w": W2, "b": B},
        ROWS,
        17,
    ),
    "Gemm whose bias depends": (
        ["MatMul x,w -> y", "Gemm x,w,y -> z alpha=0.5 beta=2.0"],
        {"w": W},
        ROWS,
        17,
    ),
    "Conv": (["Conv x,w,b -> z"], {"w": _random(4, 6, 1, 1), "b": B}, MAP, 17),
    "Conv in groups": (["Conv x,w -> z group=2"], {"w": _random(4, 3, 1, 1)}, MAP, 17),
    "Conv per channel": (["Conv x,w -> z group=6"], {"w": _random(6, 1, 1, 1)}, MAP, 17),
    "Conv of a whole map": (
        ["Conv x,w -> z strides=3,2"],
        {"w": _random(4, 6, 3, 2)},
        (6, 3, 2),
        17,
    ),
    "Conv over a map": (
        ["Conv x,w -> z pads=1,0,1,2 dilations=1,2"],
        {"w": _random(4, 6, 3, 2)},
        (6, 4, 5),
        17,
    ),
    "Conv of one axis": (["Conv x,w -> z"], {"w": _random(4, 6, 1)}, (6, 1), 17),
    "GlobalAveragePool": (["Exp x -> e", "GlobalAveragePool e -> z"], {}, (6, 3, 2), 17),
    "ReduceMean": (["Exp x -> e", "ReduceMean e -> z axes=1,2 keepdims=0"], {}, (6, 3, 2), 17),
    "ReduceMean kept": (["ReduceMean x -> m axes=1,1", "Sub x,m -> z"], {}, ROWS, 17),
    "ReduceMean of 18": (
        ["Exp x -> e", "ReduceMean e,a -> m", "Add x,m -> z"],
        {"a": _ints(-3)},
        (2, 3, 2),
        18,
    ),
    "ReduceSum": (["Exp x -> e", "ReduceSum e,a -> z keepdims=0"], {"a": _ints(2)}, TOKENS, 17),
    "ReduceL2": (["ReduceL2 x -> n axes=1,1", "Add x,n -> z"], {}, ROWS, 17),
    "ReduceSumSquare": (["ReduceSumSquare x -> z axes=1,1"], {}, ROWS, 17),
    "Softmax of an inner axis": (["Softmax x -> z axis=1"], {}, TOKENS, 17),
    "Concat": (["Tanh x -> t", "Concat x,w2,t -> z axis=1"], {"w2": None}, ROWS, 17),
    "Split": (["Split x,p -> z1,z axis=1"], {"p": _ints(2, 4)}, ROWS, 17),
    "SwiGLU": (["Split x -> a,b axis=1", "Sigmoid a -> g", "Mul g,b -> z"], {}, ROWS, 17),
    "Split of 18": (
        ["Split x -> a,b axis=1 num_outputs=2", "Exp a -> g", "Mul g,b -> z"],
        {},
        ROWS,
        18,
    ),
    "Slice": (["Slice x,f,t,a -> z"], {"f": _ints(1), "t": _ints(2**62), "a": _ints(1)}, ROWS, 17),
    "Slice of steps": (
        ["Slice x,f,t,a,s -> z"],
        {"f": _ints(0, -1), "t": _ints(2**62, -99), "a": _ints(0, -1), "s": _ints(1, -2)},
        ROWS,
        17,
    ),
    "Slice of nothing": (
        ["Slice x,n,n,a -> e", "Exp x -> y", "Concat e,y -> z axis=1"],
        {"n": _ints(0), "a": _ints(1)},
        ROWS,
        17,
    ),
    "Gather": (["Gather x,i -> z axis=1"], {"i": _ints(4, -6, 2)}, ROWS, 17),
    "Gather of one": (["Gather x,i -> z axis=1"], {"i": np.int64(-1)}, TOKENS, 17),
    "Reshape": (["Reshape x,n -> y", "Softmax y -> z axis=1"], {"n": _ints(0, 3, -1)}, ROWS, 17),
    "Transpose": (
        ["Transpose x -> t perm=2,0,1", "Softmax t -> y axis=2", "Transpose y -> z perm=1,2,0"],
        {},
        TOKENS,
        17,
    ),
    "Squeeze": (["Squeeze x,a -> y", "Tanh y -> z"], {"a": _ints(2, 3)}, MAP, 17),
    "Unsqueeze": (["Unsqueeze x,a -> y", "Tanh y -> z"], {"a": _ints(1, 3)}, ROWS, 17),
    "Cast": (["Cast x -> d to=11", "Cast d -> y to=1", "Tanh y -> z"], {}, ROWS, 17),
}


def _model(onnx_files, case):
    lines, constants, sizes, opset = case
    constants = {name: np.asarray(v) for name, v in constants.items() if v is not None}
    lines = [line.replace(",w2,", ",") for line in lines]
    made = onnx_files.graph(lines, constants, opset, ("batch", *sizes), {"z": ("batch", None)})
    for node in made.graph.node:
        for attribute in node.attribute:
            # One number cannot be written as a list of one.
            if attribute.name == "axes" and attribute.ints[:] == [1, 1]:
                del attribute.ints[1:]
            if attribute.name == "strides" and not attribute.ints:
                attribute.CopyFrom(helper.make_attribute("strides", [attribute.i]))
    del made.graph.output[0].type.tensor_type.shape.dim[:]
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


@pytest.mark.parametrize("name", CASES)
def test_a_rule_gives_the_gradient_of_torch(name, onnx_files, pulled_back):
    case = CASES[name]
    made, values = _model(onnx_files, case), _random(3, *case[2])
    (end,) = pulled_back.run(made, ["z"], {"x": values})
    direction = pulled_back.directions(3, end[0].size)
    graph = pulled_back.grafted(made, "x", "z", end[0].size)
    feeds = {"x": values, "direction": direction}
    (found,) = pulled_back.run(graph, [pulled_back.ANSWER], feeds)
    expected = pulled_back.by_interpreter(made, "x", "z", {"x": values}, direction)
    expected = expected.reshape(3, -1)
    assert pulled_back.worst(found, expected) <= 1e-5
    alone = {name: each[1:2] for name, each in feeds.items()}
    (one,) = pulled_back.run(graph, [pulled_back.ANSWER], alone)
    assert pulled_back.worst(one, expected[1:2]) <= 1e-5


def test_every_operator_with_a_slope_is_tried():
    tried = {line.split()[0] for lines, *_ in CASES.values() for line in lines}
    flat = {
        "And",
        "ArgMax",
        "ArgMin",
        "Ceil",
        "Equal",
        "Floor",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
    }
    flat |= {"LessOrEqual", "Not", "Or", "Round", "Sign"}
    assert set(RULES) - tried == flat - tried


REFUSED = {
    "an operator without a rule": (["CumSum x,a -> z"], {"a": np.int64(1)}, "no derivative here"),
    "positions that are computed": (
        ["ArgMax x -> i axis=1 keepdims=0", "Gather w,i -> g", "Gather x,i -> z axis=1"],
        {"w": _random(6)},
        "positions are computed",
    ),
    "a repeated position": (["Gather x,i -> z axis=1"], {"i": _ints(1, 1)}, "repeats a position"),
    "a computed exponent": (["Exp x -> e", "Pow e,x -> z"], {}, "exponent is computed"),
    "whole numbers": (
        ["Cast x -> i to=7", "Cast i -> z to=1"],
        {},
        "rounds to whole numbers",
    ),
    "a sum over the batch": (
        ["ReduceMean x -> m axes=0,1", "Add x,m -> z"],
        {},
        "sums over the batch",
    ),
    "images of the batch": (
        ["Slice x,f,t,a -> z"],
        {"f": _ints(0), "t": _ints(1), "a": _ints(0)},
        "picks images",
    ),
    "a convolution that strides": (
        ["Unsqueeze x,a -> u", "Conv u,k -> m strides=2", "Flatten m -> z"],
        {"a": _ints(1), "k": _random(2, 1, 3)},
        "strides over a map",
    ),
    "no way": (["Sign x -> z"], {}, "does not depend on"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_differentiated_is_named(name, onnx_files):
    lines, constants, words = REFUSED[name]
    made = _model(onnx_files, (lines, constants, ROWS, 17))
    before = made.SerializeToString()
    obstacle = obstacle_to_pull_back(made, "x", "z")
    assert obstacle is not None
    assert words in obstacle
    assert made.SerializeToString() == before
    assert name == "no way" or any(f"(node 'n_{n}')" in obstacle for n in ("z", "i", "m"))


def test_weights_are_not_stored_twice(onnx_files, pulled_back):
    made = _model(
        onnx_files,
        (
            ["MatMul x,w -> y", "Gemm y,v -> z transB=1"],
            {"w": _random(6, 400), "v": _random(3, 400)},
            ROWS,
            17,
        ),
    )
    graph = pulled_back.grafted(made, "x", "z", 3)
    added = sum(t.ByteSize() for t in graph.graph.initializer[len(made.graph.initializer) :])
    assert added < 1000
    assert isinstance(graph, onnx.ModelProto)
