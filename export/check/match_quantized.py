"""Matchers about quantization: QuantizeLinear, DequantizeLinear and what lies between."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foldcam.export.check.model_view import ModelView, Node, type_name
from foldcam.export.check.rule import Match, at
from foldcam.export.check.targets import Target

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QUANTIZED_TYPES = {"int8", "int4", "float8e4m3fn", "float4e2m1"}
_PASSING = {"BatchNormalization", "Relu", "Clip", "Identity"}


def nonzero_zero_point(view: ModelView, _: Target) -> Iterator[Match]:
    """Match Q and DQ whose zero point is not zero. Details `{found}`."""
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        point = view.array(node.input(2)) if node.input(2) else None
        if point is None:
            continue
        values = point.astype(np.float32, copy=False)
        if np.any(values != 0):
            yield at(node, found=int(values[values != 0].flat[0]))


def int32_dequantized(view: ModelView, _: Target) -> Iterator[Match]:
    """Match DequantizeLinear of an int32 tensor. Details `{value}`."""
    for node in view.of("DequantizeLinear"):
        if view.dtype(node.input(0)) == "int32":
            yield at(node, value=node.input(0))


def uint8_dequantized(view: ModelView, _: Target) -> Iterator[Match]:
    """Match DequantizeLinear of a uint8 input or constant. Details `{value}`."""
    given = {value.name for value in view.inputs} | set(view.constants)
    for node in view.of("DequantizeLinear"):
        if node.input(0) in given and view.dtype(node.input(0)) == "uint8":
            yield at(node, value=node.input(0))


def scale_not_positive(view: ModelView, _: Target) -> Iterator[Match]:
    """Match Q and DQ with a scale of zero or below. Details `{found}`."""
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        scale = view.array(node.input(1))
        if scale is None:
            continue
        values = scale.astype(np.float32, copy=False)
        if not np.all(values > 0):
            yield at(node, found=float(values[~(values > 0)].flat[0]))


def quantized_constant(view: ModelView, _: Target) -> Iterator[Match]:
    """Match what reads a quantized constant and is no DequantizeLinear.

    Details `{type}`, `{value}`.
    """
    for name, tensor in view.constants.items():
        kind = type_name(tensor.data_type)
        if kind not in _QUANTIZED_TYPES:
            continue
        for node in view.consumers.get(name, []):
            if node.op not in ("DequantizeLinear", "QuantizeLinear"):
                yield at(node, type=kind, value=name)


def uint8_quantized(view: ModelView, _: Target) -> Iterator[Match]:
    """Match QuantizeLinear to uint8, also by leaving the zero point out."""
    for node in view.of("QuantizeLinear"):
        point = node.input(2)
        wanted = type_name(int(node.attributes.get("output_dtype", 0)))
        if (view.dtype(point) if point else wanted or "uint8") == "uint8":
            yield at(node)


def name_taken(view: ModelView, _: Target) -> Iterator[Match]:
    """Match Q and DQ that have the name of an earlier Q or DQ."""
    seen: set[str] = set()
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        if node.name in seen:
            yield at(node)
        seen.add(node.name)


def activation_per_channel(view: ModelView, _: Target) -> Iterator[Match]:
    """Match QuantizeLinear of a computed tensor with several scales. Details `{scales}`."""
    for node in view.of("QuantizeLinear"):
        scale = view.shape(node.input(1))
        if scale and (scale[0] or 0) > 1 and not view.is_constant(node.input(0)):
            yield at(node, scales=scale[0])


def only_weights_quantized(view: ModelView, _: Target) -> Iterator[Match]:
    """Match weighted operators with quantized weights and a float input."""
    for node in view.of(*_WEIGHTED):
        if _dequantized(view, node.input(1)) and not _dequantized(view, node.input(0)):
            yield at(node)


def residual_not_quantized(view: ModelView, _: Target) -> Iterator[Match]:
    """Match Add of a quantized convolution's output and a float tensor that is no constant."""
    for node in view.of("Add"):
        if len(node.inputs) != 2:
            continue
        for convolved, other in (node.inputs, reversed(node.inputs)):
            if (
                _from_quantized_conv(view, convolved)
                and not view.is_constant(other)
                and not _dequantized(view, other)
            ):
                yield at(node)
                break


def _dequantized(view: ModelView, name: str) -> bool:
    node = view.producers.get(name)
    # A transposed or reshaped weight is still one.
    if node is not None and node.op in ("Transpose", "Reshape"):
        node = view.producers.get(node.input(0))
    return node is not None and node.op == "DequantizeLinear"


def _from_quantized_conv(view: ModelView, name: str) -> bool:
    node: Node | None = view.producers.get(name)
    for _ in range(4):
        if node is None or node.op not in _PASSING:
            break
        node = view.producers.get(node.input(0))
    return node is not None and node.op == "Conv" and _dequantized(view, node.input(1))
