"""Every operator's torch function gives ONNX Runtime's numbers, and a finite gradient."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from foldcam.export.networks.onnx_torch.call import UnsupportedError
from foldcam.export.networks.onnx_torch.interpreter import OPERATORS, Interpreter
from foldcam.export.onnx_graphs.session import NodeRunner

RNG = np.random.default_rng(0)


def _random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def _ints(*values):
    return np.array(values, np.int64)


X = _random(2, 6, 5, 7)
POSITIVE = np.abs(X) + 0.5
ROWS = _random(2, 6)
WEIGHT, BIAS = _random(4, 6, 3, 3), _random(4)
PER_CHANNEL = [np.abs(_random(6)) + 0.5 for _ in range(4)]
LESS = _random(6, 1, 1)
FLOAT16, FLOAT, INT64, BOOL = 10, 1, 7, 9

UNARY = [
    "Abs",
    "Ceil",
    "Celu",
    "Cos",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Neg",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Softplus",
    "Softsign",
    "Tanh",
    "ThresholdedRelu",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    "Transpose",
    "Softmax",
    "LogSoftmax",
    "Flatten",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceSum",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "LpNormalization",
    "Shape",
    "Size",
    "Dropout",
]
BINARY = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Max",
    "Min",
    "Mean",
    "Sum",
    "Greater",
    "Less",
    "GreaterOrEqual",
    "Equal",
]
# operator, inputs, attributes, opset
CASES = [
    *((name, [X], {}, 17) for name in UNARY),
    *((name, [POSITIVE], {}, 17) for name in ("Log", "Sqrt", "Reciprocal", "ReduceLogSum")),
    *((name, [X, LESS], {}, 17) for name in BINARY),
    ("LessOrEqual", [X, LESS], {}, 17),
    ("PRelu", [X, np.abs(LESS)], {}, 17),
    ("Pow", [POSITIVE, np.float32(3)], {}, 17),
    ("Pow", [X, _ints(2)], {}, 17),
    ("Mish", [X], {}, 18),
    ("Gelu", [X], {}, 20),
    ("Gelu", [X], {"approximate": "tanh"}, 20),
    ("Div", [_ints(7, -7), _ints(2, 2)], {}, 17),
    ("Mod", [_ints(7, -7), _ints(3, 3)], {}, 17),
    ("Mod", [X, LESS], {"fmod": 1}, 17),
    ("And", [X > 0, LESS > 0], {}, 17),
    ("Or", [X > 0, LESS > 0], {}, 17),
    ("Xor", [X > 0, LESS > 0], {}, 17),
    ("Not", [X > 0], {}, 17),
    ("IsNaN", [np.float32([1, np.nan])], {}, 17),
    ("IsInf", [np.float32([1, -np.inf])], {}, 17),
    ("Where", [X > 0, X, LESS], {}, 17),
    ("Elu", [X], {"alpha": 0.3}, 17),
    ("LeakyRelu", [X], {"alpha": 0.3}, 9),
    ("HardSigmoid", [X], {"alpha": 0.3, "beta": 0.4}, 17),
    ("Clip", [X, np.float32(-0.5), np.float32(0.5)], {}, 17),
    ("Clip", [X, None, np.float32(0.5)], {}, 12),
    ("Clip", [X], {"min": -0.25}, 9),
    ("Clip", [X], {"min": 0.0, "max": 6.0}, 7),
    ("Softmax", [X], {"axis": 1}, 17),
    ("Softmax", [X], {}, 11),
    ("Softmax", [X], {"axis": 2}, 11),
    ("LogSoftmax", [X], {"axis": 1}, 12),
    ("ReduceMean", [X], {"axes": [2, 3], "keepdims": 0}, 13),
    ("ReduceMean", [X, _ints(2, 3)], {"keepdims": 0}, 18),
    ("ReduceSum", [X], {"axes": [1]}, 11),
    ("ReduceSum", [X, _ints(-1)], {"keepdims": 0}, 13),
    ("ReduceMax", [X, _ints(1, 2)], {"keepdims": 0}, 18),
    ("ReduceProd", [X, _ints(1, 3)], {"keepdims": 0}, 18),
    ("ReduceProd", [X], {"axes": [2]}, 13),
    ("ReduceL2", [X], {"axes": [1]}, 17),
    ("LpNormalization", [X], {"axis": 1, "p": 1}, 17),
    ("GlobalLpPool", [X], {"p": 3}, 17),
    ("BatchNormalization", [X, *PER_CHANNEL], {"epsilon": 1e-3}, 17),
    ("BatchNormalization", [ROWS, *PER_CHANNEL], {}, 9),
    ("InstanceNormalization", [X, *PER_CHANNEL[:2]], {}, 17),
    ("LayerNormalization", [X, _random(7), _random(7)], {}, 17),
    ("LayerNormalization", [X, _random(5, 7)], {"axis": 2}, 17),
    ("GroupNormalization", [X, _random(6), _random(6)], {"num_groups": 3}, 21),
    ("RMSNormalization", [X, _random(7)], {}, 23),
    ("LRN", [X], {"size": 3}, 17),
    ("Gemm", [ROWS, _random(6, 3)], {}, 17),
    ("Gemm", [ROWS, _random(3, 6), _random(3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 9),
    ("Gemm", [_random(6, 2), _random(6, 3), _random(1, 3)], {"transA": 1}, 17),
    ("MatMul", [X, _random(7, 3)], {}, 17),
    ("Einsum", [X, _random(6, 3)], {"equation": "nchw, cd -> ndhw"}, 17),
    ("CumSum", [X, np.int64(2)], {}, 17),
    ("Conv", [X, WEIGHT, BIAS], {"pads": [1, 1, 1, 1]}, 17),
    ("Conv", [X, WEIGHT], {"pads": [0, 1, 2, 0], "strides": [2, 1]}, 17),
    ("Conv", [X, WEIGHT], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 17),
    ("Conv", [X, WEIGHT], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, 17),
    ("Conv", [X, WEIGHT], {"auto_pad": "VALID", "dilations": [2, 1]}, 17),
    ("Conv", [X, _random(6, 1, 5, 7)], {"group": 6}, 17),
    ("Conv", [X[:, :, 0], _random(4, 6, 3)], {"strides": [2]}, 17),
    ("ConvTranspose", [X, _random(6, 4, 3, 3), BIAS], {"strides": [2, 2]}, 17),
    ("ConvTranspose", [X, _random(6, 2, 3, 2)], {"pads": [1, 0, 1, 1], "group": 3}, 17),
    (
        "ConvTranspose",
        [X, _random(6, 4, 3, 3)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        17,
    ),
    (
        "ConvTranspose",
        [X, _random(6, 4, 3, 3)],
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        17,
    ),
    ("MaxPool", [X], {"kernel_shape": [2, 3], "strides": [2, 2]}, 17),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 8),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, 17),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "dilations": [2, 2]}, 17),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}, 17),
    ("AveragePool", [X], {"kernel_shape": [5, 7]}, 17),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 17),
    (
        "AveragePool",
        [X],
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        17,
    ),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, 19),
    ("AveragePool", [X], {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER"}, 17),
    ("Resize", [X, None, None, _ints(2, 6, 10, 14)], {"mode": "linear"}, 17),
    ("Resize", [X, None, np.float32([1, 1, 2, 2])], {"mode": "nearest"}, 17),
    (
        "Resize",
        [X, None, np.float32([1, 1, 2, 3])],
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
        13,
    ),
    (
        "Resize",
        [X, None, None, _ints(2, 6, 9, 3)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        17,
    ),
    ("Resize", [X, None, None, _ints(9, 11)], {"mode": "cubic", "axes": [2, 3]}, 18),
    ("DepthToSpace", [_random(2, 8, 3, 2)], {"blocksize": 2}, 17),
    ("DepthToSpace", [_random(2, 8, 3, 2)], {"blocksize": 2, "mode": "CRD"}, 17),
    ("SpaceToDepth", [_random(2, 3, 4, 6)], {"blocksize": 2}, 17),
    ("Reshape", [X, _ints(0, -1, 7)], {}, 17),
    ("Flatten", [X], {"axis": 2}, 17),
    ("Flatten", [X], {"axis": -1}, 17),
    ("Flatten", [X], {"axis": 0}, 17),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}, 17),
    ("Squeeze", [X[:, :1, :, :1]], {}, 17),
    ("Squeeze", [X[:, :1, :, :1]], {"axes": [1, 3]}, 11),
    ("Squeeze", [X[:, :1, :, :1], _ints(-1)], {}, 17),
    ("Unsqueeze", [ROWS], {"axes": [2, 3]}, 11),
    ("Unsqueeze", [ROWS, _ints(-1, 0)], {}, 17),
    ("Concat", [X, X[:, :2]], {"axis": 1}, 17),
    ("Split", [X], {"axis": 1, "#": 3}, 17),
    ("Split", [X], {"axis": 1, "split": [1, 5], "#": 2}, 11),
    ("Split", [X, _ints(1, 5)], {"axis": 1, "#": 2}, 13),
    ("Split", [X], {"axis": 3, "num_outputs": 2, "#": 2}, 18),
    ("Slice", [X], {"starts": [1, 0], "ends": [9, -1], "axes": [1, 3]}, 9),
    ("Slice", [X, _ints(-1), _ints(-99), _ints(2), _ints(-2)], {}, 17),
    ("Slice", [X, _ints(1), _ints(2**62), _ints(3), _ints(3)], {}, 17),
    ("Gather", [X, np.int64(-1)], {"axis": 1}, 17),
    ("Gather", [X, _ints(0, 2, -2).reshape(3, 1)], {"axis": 2}, 17),
    ("GatherElements", [ROWS, RNG.integers(-6, 6, (2, 4))], {"axis": 1}, 17),
    ("Expand", [LESS, _ints(2, 6, 1, 3)], {}, 17),
    ("Tile", [ROWS, _ints(2, 3)], {}, 17),
    ("Pad", [X, _ints(0, 0, 1, 2, 0, 0, 3, -1), np.float32(0.5)], {}, 17),
    ("Pad", [X], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "mode": "edge"}, 9),
    ("Pad", [X, _ints(1, 2, 3, 4), None, _ints(2, 3)], {"mode": "reflect"}, 18),
    ("Cast", [X], {"to": INT64}, 17),
    ("Cast", [X], {"to": BOOL}, 17),
    ("Cast", [_ints(1, 2)], {"to": FLOAT}, 17),
    ("CastLike", [X, _ints(1)], {}, 17),
    ("Shape", [X], {"start": 1, "end": -1}, 17),
    ("ConstantOfShape", [_ints(2, 3)], {}, 17),
    ("ConstantOfShape", [_ints(2)], {"value": numpy_helper.from_array(_ints(7))}, 17),
    ("Range", [np.int64(1), np.int64(9), np.int64(3)], {}, 17),
    ("Trilu", [X], {"upper": 0}, 17),
    ("Trilu", [X, np.int64(1)], {}, 17),
    ("TopK", [X, _ints(3)], {"axis": 2, "#": 2}, 17),
    ("Swish", [X], {"alpha": 0.7}, 24),
]


def _node(operator, inputs, attributes):
    attributes = dict(attributes)
    outputs = [f"y{number}" for number in range(attributes.pop("#", 1))]
    names = ["" if value is None else f"x{number}" for number, value in enumerate(inputs)]
    node = helper.make_node(operator, names, outputs, **attributes)
    return node, {name: np.asarray(v) for name, v in zip(names, inputs, strict=True) if name}


def _interpreter(opset):
    model = onnx.ModelProto(ir_version=10)
    model.opset_import.append(helper.make_opsetid("", opset))
    return Interpreter(model)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "opset"),
    CASES,
    ids=[f"{case[0]}-{case[3]}-{number}" for number, case in enumerate(CASES)],
)
def test_an_operator_gives_the_numbers_of_onnx_runtime(operator, inputs, attributes, opset):
    node, arrays = _node(operator, inputs, attributes)
    runner = NodeRunner([helper.make_opsetid("", opset)], 10)
    expected = runner.run(node, arrays)
    tensors = {
        name: torch.from_numpy(np.array(array)).requires_grad_(array.dtype == np.float32)
        for name, array in arrays.items()
    }
    found = _interpreter(opset).apply(node, tensors)
    assert list(found) == list(expected)
    for name, value in found.items():
        assert value.numpy(force=True).dtype == expected[name].dtype
        np.testing.assert_allclose(
            value.numpy(force=True), expected[name], rtol=2e-4, atol=2e-5, equal_nan=False
        )
    ends = [value for value in found.values() if value.requires_grad]
    if ends:
        sum(value.sum() for value in ends).backward()
        for tensor in tensors.values():
            assert tensor.grad is None or tensor.grad.isfinite().all()


def test_every_operator_of_the_table_is_tested():
    assert set(OPERATORS) == {case[0] for case in CASES}


def test_a_norm_of_zeros_has_a_finite_gradient():
    for operator in ("LpNormalization", "ReduceL2", "GlobalLpPool"):
        zeros = torch.zeros(1, 3, 2, 2, requires_grad=True)
        node, _ = _node(operator, [X], {})
        found = _interpreter(17).apply(node, {"x0": zeros})
        found["y0"].sum().backward()
        assert zeros.grad.isfinite().all()


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("ArgMax", [X], {}),
        ("MaxPool", [X], {"kernel_shape": [2, 2], "#": 2}),
        ("AveragePool", [X], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
        ("CumSum", [X, np.int64(1)], {"reverse": 1}),
        ("BatchNormalization", [X, *PER_CHANNEL], {"training_mode": 1, "#": 3}),
        ("Reshape", [X, _ints(5, 5)], {}),
    ],
)
def test_a_use_without_a_torch_function_says_so(operator, inputs, attributes):
    node, arrays = _node(operator, inputs, attributes)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    with pytest.raises(UnsupportedError):
        _interpreter(19).apply(node, tensors)


def test_an_operator_of_its_own_runs_in_onnx_runtime_where_no_gradient_passes():
    node, arrays = _node("ArgMax", [X], {"axis": 1, "keepdims": 0})
    values = {name: torch.from_numpy(array) for name, array in arrays.items()}
    _interpreter(17).run([node], values)
    assert values["y0"].tolist() == X.argmax(1).tolist()
    values["x0"].requires_grad_(True)
    _interpreter(17).run([node], values)
    assert not values["y0"].is_floating_point()
    pool, _ = _node("MaxPool", [X], {"kernel_shape": [2, 2], "#": 2})
    with pytest.raises(UnsupportedError):
        _interpreter(17).run([pool], values)
