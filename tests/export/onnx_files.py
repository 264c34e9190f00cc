"""Small ONNX networks made by hand in the style of several exporters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = (12, 16)
HEIGHT, WIDTH = SIZE


def weights(seed: int, *shape: int) -> np.ndarray:
    """Seeded, `float32`, of about unit gain."""
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    generator = np.random.default_rng(seed)
    return (generator.normal(size=shape) / np.sqrt(fan)).astype(np.float32)


def positive(seed: int, size: int) -> np.ndarray:
    return (np.abs(weights(seed, size)) + 0.5).astype(np.float32)


def graph(
    lines: list[str],
    constants: dict[str, np.ndarray],
    opset: int,
    given: tuple[int | str | None, ...] = (1, 3, HEIGHT, WIDTH),
    outputs: dict[str, tuple[int | str, ...]] | None = None,
    dtype: int = TensorProto.FLOAT,
    listed: bool = False,
) -> onnx.ModelProto:
    """A model from lines like `Relu a -> b`, `Conv a,w -> b pads=1,1,1,1`.

    Args:
        lines: one node each; every node is called `n_` and its output.
        constants: initializers.
        opset: of the file.
        given: the shape of the input `x`.
        outputs: names and shapes, by default `y [1, 3]`.
        dtype: of input and outputs.
        listed: whether weights are listed among the inputs, as before IR version 4.
    """
    nodes = []
    for line in lines:
        left, _, right = line.partition(" -> ")
        operator, _, inputs = left.partition(" ")
        output, *settings = right.split()
        attributes = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            numbers = [
                float(v) if "." in v else int(v) for v in value.split(",") if v[-1].isdigit()
            ]
            plain = value if not numbers else numbers[0]
            attributes[name] = numbers if "," in value else plain
            if "," in value:
                attributes[name] = numbers
        made = output.split(",")
        nodes.append(
            helper.make_node(
                operator, inputs.split(",") if inputs else [], made, f"n_{made[0]}", **attributes
            )
        )
    inputs = [helper.make_tensor_value_info("x", dtype, list(given))]
    if listed:
        inputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
            for name, value in constants.items()
        ]
    made = helper.make_graph(
        nodes,
        "exported on /home/someone",
        inputs,
        [
            helper.make_tensor_value_info(name, dtype, list(shape))
            for name, shape in (outputs or {"y": (1, 3)}).items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 if listed else 8
    )


def _norm(prefix: str, seed: int, size: int) -> dict[str, np.ndarray]:
    return {
        f"{prefix}s": positive(seed, size),
        f"{prefix}b": weights(seed + 1, size),
        f"{prefix}m": weights(seed + 2, size),
        f"{prefix}v": positive(seed + 3, size),
    }


def face() -> onnx.ModelProto:
    """A face network as mxnet writes it: PRelu, batch norms, flatten, linear, batch norm."""
    lines = [
        "Sub x,mean -> centred",
        "Mul centred,scale -> scaled",
        "Conv scaled,w0 -> c0 kernel_shape=3,3 strides=2,2 pads=1,1,1,1 group=1",
        "BatchNormalization c0,n0s,n0b,n0m,n0v -> b0 epsilon=0.00002",
        "PRelu b0,slope -> r0",
        "Conv r0,w1 -> c1 kernel_shape=3,3 pads=1,1,1,1",
        "BatchNormalization c1,n1s,n1b,n1m,n1v -> b1 epsilon=0.00002",
        "Add b1,r0 -> sum",
        "BatchNormalization sum,n2s,n2b,n2m,n2v -> b2 epsilon=0.00002",
        "Dropout b2 -> dropped ratio=0.4",
        "Flatten dropped -> flat",
        "Gemm flat,w2,bias -> fc transB=1 alpha=1.0 beta=1.0",
        "BatchNormalization fc,n3s,n3b,n3m,n3v -> y epsilon=0.00002",
    ]
    constants = {
        "mean": np.full((1, 1, 1, 1), 0.5, np.float32),
        "scale": np.full((1, 1, 1, 1), 2.0, np.float32),
        "w0": weights(0, 4, 3, 3, 3),
        "w1": weights(1, 4, 4, 3, 3),
        "w2": weights(2, 3, 4 * 6 * 8),
        "bias": weights(3, 3),
        "slope": positive(4, 4).reshape(4, 1, 1),
        **_norm("n0", 10, 4),
        **_norm("n1", 20, 4),
        **_norm("n2", 30, 4),
        **_norm("n3", 40, 3),
    }
    return graph(lines, constants, 9, listed=True)


def channels_last(batch: int | str | None = "unk__1") -> onnx.ModelProto:
    """A Keras network as tf2onnx writes it: channels last, a bias of its own, L2 by steps."""
    lines = [
        "Transpose x -> first perm=0,3,1,2",
        "Conv first,w0,b0 -> c0 strides=2,2 auto_pad=SAME_UPPER",
        "Relu c0 -> r0",
        "Transpose r0 -> last perm=0,2,3,1",
        "ReduceMean last -> pooled axes=1,2 keepdims=0",
        "MatMul pooled,w1 -> product",
        "Add product,b1 -> z",
        "Mul z,z -> square",
        "ReduceSum square,axis -> total keepdims=1",
        "Max total,tiny -> safe",
        "Sqrt safe -> norm",
        "Reciprocal norm -> inverse",
        "Mul z,inverse -> y",
    ]
    constants = {
        "w0": weights(0, 4, 3, 3, 3),
        "b0": weights(1, 4),
        "w1": weights(2, 4, 3),
        "b1": weights(3, 3),
        "axis": np.array([1], np.int64),
        "tiny": np.array(1e-12, np.float32),
    }
    return graph(lines, constants, 13, (batch, HEIGHT, WIDTH, 3), {"y": (batch or 1, 3)})


def transformer() -> onnx.ModelProto:
    """Class token, layer norm by steps, attention with its batch baked in; patches of 4 x 4."""

    def norm(name: str, source: str) -> list[str]:
        return [
            f"ReduceMean {source} -> {name}m axes=-1,-1",
            f"Sub {source},{name}m -> {name}d",
            f"Pow {name}d,two -> {name}q",
            f"ReduceMean {name}q -> {name}v axes=-1,-1",
            f"Add {name}v,tiny -> {name}e",
            f"Sqrt {name}e -> {name}r",
            f"Div {name}d,{name}r -> {name}u",
            f"Mul {name}u,gain -> {name}g",
            f"Add {name}g,shift -> {name}",
        ]

    lines = [
        "Conv x,w0 -> patches strides=4,4",
        "Reshape patches,flat -> columns",
        "Transpose columns -> tokens perm=0,2,1",
        "Concat token,tokens -> joined axis=1",
        "Add joined,places -> t0",
        *norm("l0", "t0"),
        "MatMul l0,wq -> q",
        "Reshape q,heads -> qh",
        "Transpose qh -> qt perm=0,2,1,3",
        "MatMul l0,wk -> k",
        "Reshape k,heads -> kh",
        "Transpose kh -> kt perm=0,2,3,1",
        "MatMul qt,kt -> scores",
        "Softmax scores -> shares axis=-1",
        "MatMul l0,wv -> v",
        "Reshape v,heads -> vh",
        "Transpose vh -> vt perm=0,2,1,3",
        "MatMul shares,vt -> mixed",
        "Transpose mixed -> back perm=0,2,1,3",
        "Reshape back,whole -> attended",
        "Add t0,attended -> t1",
        *norm("l1", "t1"),
        "Gather l1,zero -> y axis=1",
    ]
    constants = {
        "w0": weights(0, 6, 3, 4, 4),
        "token": weights(1, 1, 1, 6),
        "places": weights(2, 1, 13, 6),
        "wq": weights(3, 6, 6),
        "wk": weights(4, 6, 6),
        "wv": weights(5, 6, 6),
        "gain": positive(6, 6),
        "shift": weights(7, 6),
        "flat": np.array([1, 6, 12], np.int64),
        "heads": np.array([1, 13, 3, 2], np.int64),
        "whole": np.array([1, 13, 6], np.int64),
        "two": np.array(2.0, np.float32),
        "tiny": np.array(1e-6, np.float32),
        "zero": np.array(0, np.int64),
    }
    made = graph(lines, constants, 17, outputs={"y": (1, 6)})
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axes":
                del attribute.ints[1:]
    return made


def squeeze_excite() -> onnx.ModelProto:
    """A gate from a global pool that flows back into the map, then a 1x1 convolution as head."""
    lines = [
        "Conv x,w0 -> c0 strides=2,2 pads=1,1,1,1",
        "Clip c0,low,high -> r0",
        "GlobalAveragePool r0 -> pooled",
        "Conv pooled,w1 -> squeezed",
        "Relu squeezed -> active",
        "Conv active,w2 -> excited",
        "HardSigmoid excited -> gate alpha=0.2 beta=0.5",
        "Mul r0,gate -> gated",
        "GlobalAveragePool gated -> average",
        "Conv average,w3,b3 -> y",
    ]
    constants = {
        "w0": weights(0, 4, 3, 3, 3),
        "w1": weights(1, 2, 4, 1, 1),
        "w2": weights(2, 4, 2, 1, 1),
        "w3": weights(3, 3, 4, 1, 1),
        "b3": weights(4, 3),
        "low": np.array(0.0, np.float32),
        "high": np.array(6.0, np.float32),
    }
    return graph(lines, constants, 11, outputs={"y": (1, 3, 1, 1)})


def two_pools(opset: int = 21) -> onnx.ModelProto:
    """Average and maximum of one map, beside each other; every size but the channels is open."""
    lines = [
        "Conv x,w0 -> c0 strides=2,2",
        "Gelu c0 -> r0",
        "ReduceMean r0,axes -> average keepdims=0",
        "ReduceMax r0,axes -> maximum keepdims=0",
        "Concat average,maximum -> both axis=1",
        "Gemm both,w1 -> z",
        "LpNormalization z -> y axis=1 p=2",
    ]
    constants = {
        "w0": weights(0, 4, 3, 3, 3),
        "w1": weights(1, 8, 3),
        "axes": np.array([2, 3], np.int64),
    }
    return graph(lines, constants, opset, ("N", 3, "H", "W"), {"y": ("N", 3)})


def plain(
    head: list[str] | None = None,
    outputs: dict[str, tuple[int | str, ...]] | None = None,
    given: tuple[int | str | None, ...] = ("N", 3, HEIGHT, WIDTH),
    **constants: np.ndarray,
) -> onnx.ModelProto:
    """Convolution and ReLU, `map [N, 4, 5, 7]`, and a head: by default pool and linear."""
    lines = ["Conv x,w0 -> c0 strides=2,2", "Relu c0 -> map"]
    lines += head or ["GlobalAveragePool map -> pooled", "Flatten pooled -> f", "Gemm f,w1 -> y"]
    known = {"w0": weights(0, 4, 3, 3, 3), "w1": weights(1, 4, 3)}
    return graph(lines, {**known, **constants}, 17, given, outputs or {"y": ("N", 3)})


STYLES = {
    "face": face,
    "channels last": channels_last,
    "channels last, batch of 1": lambda: channels_last(1),
    "transformer": transformer,
    "squeeze and excitation": squeeze_excite,
    "two pools": two_pools,
    "plain": plain,
}


def save(made: onnx.ModelProto, folder: Path, name: str = "embedding.onnx") -> Path:
    """Write a file; returns its path."""
    path = folder / name
    onnx.save(made, path)
    return path
