"""Operators that rearrange numbers, and those that compute shapes."""

from __future__ import annotations

import math

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from foldcam.export.networks.onnx_torch.call import Call, Operator, Result, UnsupportedError


def dtype_of(element_type: int) -> torch.dtype:
    """The torch type for one of ONNX's; halves are computed in float32."""
    if element_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        return torch.float32
    try:
        return to_torch(np.zeros(0, helper.tensor_dtype_to_np_dtype(element_type))).dtype
    except (KeyError, TypeError, ValueError):
        raise UnsupportedError(f"it makes numbers of type {element_type}") from None


def to_torch(array: np.ndarray) -> Tensor:
    """An array as a tensor; halves become float32."""
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    try:
        return torch.from_numpy(np.array(array, copy=True))
    except TypeError:
        raise UnsupportedError(f"it works on {array.dtype}") from None


def _reshape(call: Call, x: Tensor, shape: Tensor | None = None) -> Tensor:
    sizes = call.given("shape", shape) or []
    if not call.int("allowzero", 0):
        sizes = [x.shape[at] if size == 0 else size for at, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.int("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = call.given("axes", given)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = call.given("axes", given) or []
    rank = x.ndim + len(axes)
    for axis in sorted(each % rank for each in axes):
        x = x.unsqueeze(axis)
    return x


def _split(call: Call, x: Tensor, given: Tensor | None = None) -> Result:
    axis = call.int("axis", 0)
    sizes = call.given("split", given)
    if sizes is None:
        parts = call.int("num_outputs", call.outputs)
        each = math.ceil(x.shape[axis] / parts)
        sizes = [each] * (parts - 1)
        sizes.append(x.shape[axis] - sum(sizes))
    return tuple(torch.split(x, sizes, axis))


def _slice(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = call.given("starts", starts) or [], call.given("ends", ends) or []
    along = call.given("axes", axes) or list(range(len(first)))
    stride = call.given("steps", steps) or [1] * len(first)
    for start, end, axis, step in zip(first, last, along, stride, strict=True):
        size = x.shape[axis]
        # Python's own rule for slices is ONNX's, but for an end before the first number.
        stop = None if step < 0 and end < -size else end
        index = range(size)[start:stop:step]
        if step == 1:
            x = x.narrow(axis, index.start, len(index))
        else:
            x = x.index_select(axis, torch.tensor(list(index), dtype=torch.int64))
    return x


def _gather(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = call.int("axis", 0) % x.ndim
    flat = index.reshape(-1).to(torch.int64)
    found = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(call: Call, x: Tensor, index: Tensor) -> Tensor:
    axis = call.int("axis", 0)
    index = index.to(torch.int64)
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


def _expand(_: Call, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(shape.tolist())))


def _pad(
    call: Call,
    x: Tensor,
    given: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    pads = call.given("pads", given) or []
    along = call.given("axes", axes) or list(range(x.ndim))
    count = len(along)
    mode = call.text("mode", "constant")
    if mode == "constant":
        fill = call.float("value", 0.0) if value is None else float(value.detach())
        each = [(0, 0)] * x.ndim
        for at, axis in enumerate(along):
            each[axis % x.ndim] = (pads[at], pads[at + count])
        flat = [number for pair in reversed(each) for number in pair]
        return functional.pad(x, flat, value=fill)
    rules = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in rules or min(pads) < 0:
        raise UnsupportedError(f"it pads by {mode}")
    for at, axis in enumerate(along):
        places = np.pad(np.arange(x.shape[axis]), (pads[at], pads[at + count]), mode=mode)  # type: ignore[call-overload]
        x = x.index_select(axis, torch.from_numpy(places))
    return x


def _shape(call: Call, x: Tensor) -> Tensor:
    end = call.attributes.get("end")
    return torch.tensor(list(x.shape)[call.int("start", 0) : end], dtype=torch.int64)


def _constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    value = call.attributes.get("value")
    fill = torch.zeros(1) if value is None else to_torch(numpy_helper.to_array(value)).reshape(-1)
    return fill.repeat(math.prod(shape.tolist())).reshape(shape.tolist())


def _range(_: Call, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    numbers = (start.item(), limit.item(), step.item())
    return torch.arange(*numbers, dtype=start.dtype)


def _trilu(call: Call, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    offset = 0 if diagonal is None else int(diagonal)
    return x.triu(offset) if call.int("upper", 1) else x.tril(offset)


def _top_k(call: Call, x: Tensor, count: Tensor) -> Result:
    found = torch.topk(
        x, int(count), call.int("axis", -1), bool(call.int("largest", 1)), sorted=True
    )
    return found.values, found.indices


OPERATORS: dict[str, Operator] = {
    "Cast": lambda call, x: x.to(dtype_of(call.int("to", TensorProto.FLOAT))),
    "CastLike": lambda _, x, like: x.to(like.dtype),
    "Concat": lambda call, *inputs: torch.cat(inputs, call.int("axis", 1)),
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda _, x: torch.tensor(x.numel()),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda _, x, repeats: x.repeat(repeats.tolist()),
    "TopK": _top_k,
    "Transpose": lambda call, x: x.permute(call.ints("perm") or list(reversed(range(x.ndim)))),
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
