"""Reductions, normalisations, and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from foldcam.export.networks.onnx_torch.call import Call, Operator, UnsupportedError

_Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _reduce(function: _Reduction) -> Operator:
    """Axes are an attribute up to opset 17 (12 for a sum), and an input later."""

    def apply(call: Call, x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = call.given("axes", given)
        if not axes:
            if call.int("noop_with_empty_axes", 0):
                raise UnsupportedError("it reduces nothing")
            axes = list(range(x.ndim))
        return function(x, tuple(axes), bool(call.int("keepdims", 1)))

    return apply


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    result = reduce(lambda value, axis: value.prod(axis, keepdim=True), axes, x)
    if keep:
        return result
    kept = [size for at, size in enumerate(x.shape) if at not in {a % x.ndim for a in axes}]
    return result.reshape(kept)


def _batch_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    call.one_output()
    if call.int("training_mode", 0):
        raise UnsupportedError("it is in training mode")
    shape = [1, -1, *[1] * (x.ndim - 2)]
    factor = scale / torch.sqrt(variance + call.float("epsilon", 1e-5))
    return x * factor.view(shape) + (bias - mean * factor).view(shape)


def _standardized(x: Tensor, axes: tuple[int, ...], epsilon: float) -> tuple[Tensor, Tensor]:
    """`x` without its mean, and its deviation."""
    centred = x - x.mean(dim=axes, keepdim=True)
    return centred, torch.sqrt(centred.square().mean(dim=axes, keepdim=True) + epsilon)


def _instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    shape = [1, -1, *[1] * (x.ndim - 2)]
    centred, deviation = _standardized(x, tuple(range(2, x.ndim)), call.float("epsilon", 1e-5))
    return centred / deviation * scale.view(shape) + bias.view(shape)


def _layer_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    call.one_output()
    axes = tuple(range(call.int("axis", -1) % x.ndim, x.ndim))
    centred, deviation = _standardized(x, axes, call.float("epsilon", 1e-5))
    result = centred / call.scale(deviation) * scale
    return result if bias is None else result + bias


def _rms_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(call.int("axis", -1) % x.ndim, x.ndim))
    size = x.square().mean(dim=axes, keepdim=True) + call.float("epsilon", 1e-5)
    return x / call.scale(torch.sqrt(size)) * scale


def _group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = call.int("num_groups", 1)
    parts = x.reshape(x.shape[0], groups, -1)
    centred, deviation = _standardized(parts, (2,), call.float("epsilon", 1e-5))
    unit = (centred / deviation).reshape(x.shape)
    if scale.numel() == groups != x.shape[1]:
        # Up to opset 20 there is one number per group.
        scale, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (scale, bias))
    shape = [1, -1, *[1] * (x.ndim - 2)]
    return unit * scale.view(shape) + bias.view(shape)


def _lp_normalization(call: Call, x: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(x, call.int("p", 2), dim=call.int("axis", -1), keepdim=True)
    return x / call.scale(torch.where(norm == 0, torch.ones_like(norm), norm))


def _lrn(call: Call, x: Tensor) -> Tensor:
    return torch.nn.functional.local_response_norm(
        x,
        call.int("size", 1),
        call.float("alpha", 1e-4),
        call.float("beta", 0.75),
        call.float("bias", 1.0),
    )


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Operator:
    def apply(call: Call, x: Tensor) -> Tensor:
        if call.opset >= 13:
            return function(x, call.int("axis", -1))
        # Before, everything from the axis on was one row.
        axis = call.int("axis", 1) % x.ndim
        rows = x.reshape(*x.shape[:axis], -1)
        return function(rows, axis).reshape(x.shape)

    return apply


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    if call.int("transA", 0):
        a = a.transpose(0, 1)
    if call.int("transB", 0):
        b = b.transpose(0, 1)
    result = call.float("alpha", 1.0) * (a @ b)
    return result if c is None else result + call.float("beta", 1.0) * c


def _einsum(call: Call, *inputs: Tensor) -> Tensor:
    return torch.einsum(call.text("equation", "").replace(" ", ""), *inputs)


def _cumulative_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    if call.int("exclusive", 0) or call.int("reverse", 0):
        raise UnsupportedError("it is exclusive or reversed")
    return x.cumsum(int(axis))


def _norm(power: float) -> _Reduction:
    # At zero its gradient is zero, where that of a root of a sum is not a number.
    return lambda x, axes, keep: torch.linalg.vector_norm(x, power, dim=axes, keepdim=keep)


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch_normalization,
    "CumSum": _cumulative_sum,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LRN": _lrn,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _softmax(lambda x, axis: torch.log_softmax(x, axis)),
    "LpNormalization": _lp_normalization,
    "MatMul": lambda _, a, b: torch.matmul(a, b),
    "RMSNormalization": _rms_normalization,
    "ReduceL1": _reduce(_norm(1.0)),
    "ReduceL2": _reduce(_norm(2.0)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: x.sum(dim=axes, keepdim=keep).log()),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: x.logsumexp(dim=axes, keepdim=keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(dim=axes, keepdim=keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(dim=axes, keepdim=keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(dim=axes, keepdim=keep)),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(dim=axes, keepdim=keep)),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(dim=axes, keepdim=keep)),
    "Softmax": _softmax(lambda x, axis: torch.softmax(x, axis)),
}
