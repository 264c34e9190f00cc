"""One row's gradient, computed alone, is that row of the whole gradient."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.export.onnx_graphs.adjoints.tape import Row, reshaped, sizes_at

RNG = np.random.default_rng(11)
TOKENS, WIDTH, ROW = 5, 6, 2


def _random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def _ints(*values):
    return np.array(values, np.int64)


CONSTANTS = {
    "w": _random(WIDTH, 4),
    "mix": _random(3, TOKENS),
    "places": _random(TOKENS, WIDTH),
    "gain": np.abs(_random(WIDTH)) + 0.5,
    "gains": np.abs(_random(TOKENS, WIDTH)) + 0.5,
    "extra": _random(1, 2, WIDTH),
    "bias": _random(4),
    "two": np.int64(2),
    "some": _ints(4, 2, 0),
    "from1": _ints(1),
    "to4": _ints(4),
    "axis1": _ints(1),
    "heads": _ints(0, TOKENS, 3, 2),
    "flat": _ints(-1, WIDTH),
    "back": _ints(-1, TOKENS, 4),
    "columns": _ints(0, TOKENS * WIDTH),
    "grid": _ints(0, TOKENS, 1, WIDTH),
    "condition": RNG.normal(size=(TOKENS, 1)) > 0,
}

# Steps from x [N, 5, 6], of which row 2 is asked for, to z.
CASES = {
    "nothing": ["Tanh x -> z"],
    "one token": ["Exp x -> e", "Gather e,two -> z axis=1"],
    "some tokens": ["Exp x -> e", "Gather e,some -> z axis=1"],
    "a slice of tokens": ["Exp x -> e", "Slice e,from1,to4,axis1 -> z"],
    "constants of each token": ["Exp x -> e", "Add e,places -> a", "Mul a,places -> z"],
    "a gate of each token": ["Exp x -> e", "ReduceMean e -> m axes=2,2", "Mul e,m -> z"],
    "a gate of all tokens": ["Exp x -> e", "ReduceMean e -> m axes=1,1", "Mul e,m -> z"],
    "a sum over tokens": ["Exp x -> e", "ReduceSum e,axis1 -> z keepdims=0"],
    "a norm over tokens": ["Exp x -> e", "ReduceL2 e -> z axes=1,1"],
    "softmax over features": ["Exp x -> e", "Softmax e -> z axis=2"],
    "softmax over tokens": ["Exp x -> e", "Softmax e -> z axis=1"],
    "a norm of each token": ["Exp x -> e", "LayerNormalization e,gain -> z"],
    "a norm of all tokens": ["Exp x -> e", "LayerNormalization e,gains -> z axis=1"],
    "L2 over tokens": ["Exp x -> e", "LpNormalization e -> z axis=1 p=2"],
    "weights": ["Exp x -> e", "MatMul e,w -> z"],
    "weights of tokens": ["Exp x -> e", "MatMul mix,e -> z"],
    "an attention": [
        "Transpose x -> t perm=0,2,1",
        "MatMul x,t -> scores",
        "Softmax scores -> shares axis=2",
        "MatMul shares,x -> z",
    ],
    "tokens and images in one axis": [
        "Reshape x,flat -> f",
        "Gemm f,w,bias -> g",
        "Tanh g -> h",
        "Reshape h,back -> z",
    ],
    "tokens and images apart at the end": [
        "Transpose x -> t perm=1,0,2",
        "Exp t -> e",
        "Transpose e -> z perm=1,0,2",
    ],
    "tokens and features in one axis": ["Exp x -> e", "Reshape e,columns -> r", "Tanh r -> z"],
    "heads": [
        "Exp x -> e",
        "Reshape e,heads -> h",
        "Transpose h -> t perm=0,2,1,3",
        "Softmax t -> z axis=3",
    ],
    "an axis more": ["Exp x -> e", "Reshape e,grid -> g", "Tanh g -> z"],
    "tokens joined": ["Exp x -> e", "Tanh x -> t", "Concat e,t -> c axis=1", "Exp c -> z"],
    "features joined": ["Exp x -> e", "Tanh x -> t", "Concat e,t -> c axis=2", "Exp c -> z"],
    "a token put beside itself": [
        "Gather x,some -> g axis=1",
        "Slice g,from1,to4,axis1 -> s",
        "Tanh x -> t",
        "Concat s,t -> z axis=1",
    ],
    "a condition of each token": ["Exp x -> e", "Tanh x -> t", "Where condition,e,t -> z"],
}


@pytest.mark.parametrize("name", CASES)
def test_a_row_of_the_gradient_is_computed_alone(name, onnx_files, pulled_back):
    lines = CASES[name]
    read = {word for line in lines for word in line.split(" -> ")[0].split(" ")[1].split(",")}
    made = onnx_files.graph(
        lines,
        {key: np.asarray(value) for key, value in CONSTANTS.items() if key in read},
        17,
        ("batch", TOKENS, WIDTH),
        {"z": ("batch", None)},
    )
    made.graph.output[0].type.tensor_type.ClearField("shape")
    for node in made.graph.node:
        for attribute in node.attribute:
            # One number cannot be written as a list of one.
            if attribute.name == "axes":
                del attribute.ints[1:]
    values = _random(3, TOKENS, WIDTH)
    size = pulled_back.run(made, ["z"], {"x": values})[0][0].size
    direction = pulled_back.directions(3, size)
    graph = pulled_back.grafted(made, "x", "z", size, ROW)
    feeds = {"x": values, "direction": direction}
    (found,) = pulled_back.run(graph, [pulled_back.ANSWER], feeds)
    expected = pulled_back.by_interpreter(made, "x", "z", {"x": values}, direction)[:, ROW]
    assert pulled_back.worst(found, expected) <= 1e-5


def test_a_row_is_found_behind_a_reshape():
    """Tokens 5, features 6; 7 stands for the batch."""
    row = Row(1, 5, 2)
    assert reshaped(row, (7, 5, 6), (35, 6)) == Row(0, 5, 2)
    assert reshaped(row, (7, 5, 6), (7, 30)) == Row(1, 5, 2, inner=6)
    assert reshaped(row, (7, 5, 6), (7, 5, 3, 2)) == row
    assert reshaped(row, (7, 5, 6), (7, 1, 5, 1, 6)) == Row(2, 5, 2)
    assert reshaped(Row(0, 5, 2), (5, 7, 6), (35, 6)) == Row(0, 5, 2, inner=7)
    assert reshaped(Row(1, 6, 2), (7, 6, 4), (7, 3, 2, 4)) is None


def test_the_sizes_of_a_row():
    assert sizes_at((7, 30), Row(1, 5, 2, inner=6)) == (7, 6)
    assert sizes_at((7, 5, 6), None) == (7, 5, 6)
