"""For every rule that TensorRT-RTX confirms: the smallest model it forbids, and one it allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8
INT4, INT32, INT64 = TensorProto.INT4, TensorProto.INT32, TensorProto.INT64
Value = tuple[str, int, Sequence[Any]]
X: Value = ("x", FLOAT, [1, 3, 8, 8])
Y: Value = ("y", FLOAT, [1, 3, 8, 8])
ANY = ["a", "b", "c", "d"]
SCALE, ZERO = np.array(0.1, np.float32), np.array(0, np.int8)
Models = tuple[onnx.ModelProto, onnx.ModelProto]


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """An operator; names are separated by blanks, `-` is one that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=f"{op} to {outputs}", **attributes)


def model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    inputs: Sequence[Value] = (X,),
    outputs: Sequence[Value] = (Y,),
    opset: int = 18,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of a few nodes, not checked: many of them are wrong on purpose."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [
            value
            if isinstance(value, TensorProto)
            else numpy_helper.from_array(np.asarray(value), name)
            for name, value in (constants or {}).items()
        ],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def resize(**attributes: Any) -> onnx.ModelProto:
    """8 x 8 to 16 x 16."""
    return model(
        [node("Resize", "x - - sizes", **attributes)],
        {"sizes": [1, 3, 16, 16]},
        outputs=[("y", FLOAT, [1, 3, 16, 16])],
    )


def topk(size: int, k: int) -> onnx.ModelProto:
    """The greatest `k` of `size`."""
    return model(
        [node("TopK", "x k", "y index")],
        {"k": [k]},
        [("x", FLOAT, ["N", size])],
        [("y", FLOAT, ["N", k]), ("index", INT64, ["N", k])],
    )


def pool(op: str, window: list[int], **attributes: Any) -> onnx.ModelProto:
    """One window over an image of its size."""
    shape = [1, 3, *window]
    out = ["a", "b", *(f"c{axis}" for axis in range(len(window)))]
    made = node(op, "x", kernel_shape=window, **attributes)
    opset = 19 if "dilations" in attributes else 18
    return model([made], None, [("x", FLOAT, shape)], [("y", FLOAT, out)], opset)


def quantized(scale: Any = SCALE, zero: Any = ZERO) -> onnx.ModelProto:
    """A tensor quantized and dequantized."""
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")]
    return model(nodes, {"s": scale, "z": zero})


def named(first: str, second: str) -> onnx.ModelProto:
    """`quantized` with these names of its nodes."""
    made = quantized()
    for proto, name in zip(made.graph.node, (first, second), strict=True):
        proto.name = name
    return made


def biased(bias: Any) -> onnx.ModelProto:
    """A quantized convolution with a float bias, or with one of int32 that is dequantized."""
    integer = np.asarray(bias).dtype == np.int32
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "xd"),
        node("DequantizeLinear", "w s z", "wd"),
        *([node("DequantizeLinear", "b s", "bd")] if integer else []),
        node("Conv", "xd wd " + ("bd" if integer else "b")),
    ]
    constants = {"s": SCALE, "z": ZERO, "w": np.ones((3, 3, 1, 1), np.int8), "b": bias}
    return model(nodes, constants)


def bytes_in(first: str) -> onnx.ModelProto:
    """uint8 [1, 8, 8, 3] to float32 [1, 3, 8, 8], with Cast or Transpose first."""
    cast = {"op": "Cast", "to": FLOAT}
    turn = {"op": "Transpose", "perm": [0, 3, 1, 2]}
    steps = [cast, turn] if first == "Cast" else [turn, cast]
    names = ("x", "between", "y")
    nodes = [
        node(inputs=names[at], outputs=names[at + 1], **step)  # type: ignore[arg-type]
        for at, step in enumerate(steps)
    ]
    return model(nodes, None, [("x", UINT8, [1, 8, 8, 3])])


def added(constant: Any) -> onnx.ModelProto:
    """`x` plus a constant that is first cast to float32."""
    nodes = [node("Cast", "c", "f", to=FLOAT), node("Add", "x f")]
    return model(nodes, {"c": constant})


def branch(constant: bool) -> onnx.ModelProto:
    """If over the input, or no If at all."""
    if constant:
        return model([node("Relu", "x")])
    arms = {
        name: helper.make_graph(
            [helper.make_node(op, ["x"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, FLOAT, [1, 3, 8, 8])],
        )
        for name, op in (("positive", "Relu"), ("negative", "Neg"))
    }
    nodes = [
        node("ReduceMax", "x", "m", keepdims=0),
        node("Greater", "m zero", "c"),
        node("If", "c", then_branch=arms["positive"], else_branch=arms["negative"]),
    ]
    return model(nodes, {"zero": np.float32(0)})


def _mixed(second: Any) -> onnx.ModelProto:
    return model([node("Add", "x c")], {"c": second})


def _domain(domain: str, op: str) -> onnx.ModelProto:
    return model([node(op, "x", domain=domain)], domains=[domain] if domain else [])


def _statistics(outputs: str) -> onnx.ModelProto:
    made = node("MaxPool", "x", outputs, kernel_shape=[1, 1])
    extra: list[Value] = [("i", INT64, [1, 3, 8, 8])] if "i" in outputs else []
    return model([made], outputs=[Y, *extra])


AXES = np.array([2], np.int64)


def _normalised(training: int) -> onnx.ModelProto:
    outputs = "y m v" if training else "y"
    made = node("BatchNormalization", "x a a a a", outputs, training_mode=training)
    return model([made], {"a": np.ones(3, np.float32)})


def _scattered(op: str, reduction: str) -> onnx.ModelProto:
    index = np.zeros((1, 1), np.int64) if op == "ScatterND" else np.zeros((1, 1, 1, 1), np.int64)
    shape = (1, 3, 8, 8) if op == "ScatterND" else (1, 1, 1, 1)
    made = node(op, "x i u", reduction=reduction)
    return model([made], {"i": index, "u": np.zeros(shape, np.float32)})


def _sequence(wrapped: bool) -> onnx.ModelProto:
    made = model([node("Identity", "x")])
    if wrapped:
        kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [1]))
        for values in (made.graph.input, made.graph.output):
            values[0].type.CopyFrom(kind)
    return made


def _reduced(given: bool) -> onnx.ModelProto:
    inputs: list[Value] = [X, ("axes", INT64, [1])] if given else [X]
    constants = {} if given else {"axes": AXES}
    return model([node("ReduceMean", "x axes")], constants, inputs, [("y", FLOAT, ANY)])


def _dequantized(values: Any) -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", "c s", "f"), node("Add", "x f")]
    return model(nodes, {"c": values, "s": SCALE})


def _inside(kind: int) -> onnx.ModelProto:
    return model([node("Cast", "x", "between", to=kind), node("Cast", "between", to=FLOAT)])


EXAMPLES: dict[str, Models] = {
    "unknown-operator": (
        model([node("Unique", "x", sorted=0)], outputs=[("y", FLOAT, ["n"])]),
        model([node("Erf", "x")]),
    ),
    "custom-operator": (_domain("com.acme", "Enhance"), _domain("", "Relu")),
    "custom-operator-by-name": (_domain("com.microsoft", "Gelu"), _domain("", "Relu")),
    "undefined-input": (model([node("Add", "x nobody")]), model([node("Add", "x x")])),
    "control-flow": (branch(False), branch(True)),
    "reduction-axes": (_reduced(True), _reduced(False)),
    "topk-too-many": (topk(5000, 4000), topk(5000, 3840)),
    "topk-beyond-size": (topk(3, 4), topk(3, 3)),
    "resize-coordinates": (
        resize(mode="linear", coordinate_transformation_mode="half_pixel_symmetric"),
        resize(mode="linear", coordinate_transformation_mode="align_corners"),
    ),
    "resize-antialias": (resize(mode="linear", antialias=1), resize(mode="linear", antialias=0)),
    "resize-aspect-ratio": (
        resize(mode="linear", keep_aspect_ratio_policy="not_larger"),
        resize(mode="linear", keep_aspect_ratio_policy="stretch"),
    ),
    "pool-window": (pool("AveragePool", [317, 317]), pool("AveragePool", [316, 316])),
    "pool-dilations": (
        pool("AveragePool", [3, 3], dilations=[2, 2], pads=[1, 1, 1, 1]),
        pool("AveragePool", [3, 3], dilations=[1, 1], pads=[1, 1, 1, 1]),
    ),
    "pool-power": (pool("LpPool", [2, 2], p=3), pool("LpPool", [2, 2], p=1)),
    "second-output": (_statistics("y i"), _statistics("y")),
    "training-mode": (_normalised(1), _normalised(0)),
    "scatter-elements-reduction": (
        _scattered("ScatterElements", "add"),
        _scattered("ScatterElements", "none"),
    ),
    "scatter-reduction": (_scattered("ScatterND", "add"), _scattered("ScatterND", "none")),
    "integer-operator": (
        model([node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z")]),
        quantized(),
    ),
    "unknown-type": (added(np.ones(8, np.int16)), added(np.ones(8, np.int32))),
    "not-a-tensor": (_sequence(True), _sequence(False)),
    "float64": (added(np.ones(8, np.float64)), added(np.ones(8, np.float16))),
    "mixed-operands": (_mixed(np.ones(8, np.float16)), _mixed(np.ones(8, np.float32))),
    "uint8-first-operator": (bytes_in("Transpose"), bytes_in("Cast")),
    "uint8-inside": (_inside(UINT8), _inside(INT32)),
    "zero-point": (quantized(zero=np.array(3, np.int8)), quantized()),
    "int32-bias": (biased(np.ones(3, np.int32)), biased(np.ones(3, np.float32))),
    "quantize-name": (named("same", "same"), named("", "")),
    "uint8-dequantize": (_dequantized(np.ones(8, np.uint8)), _dequantized(np.ones(8, np.int8))),
    "scale": (quantized(scale=np.array(0, np.float32)), quantized()),
    "quantized-constant": (added(np.ones(8, np.int8)), added(np.ones(8, np.int32))),
}
