"""Operators that work number by number."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from foldcam.export.networks.onnx_torch.call import Call, Operator, UnsupportedError


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda _, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _, a, b: function(a, b)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _, *inputs: functools.reduce(function, inputs)


def _div(_: Call, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _selu(call: Call, x: Tensor) -> Tensor:
    alpha = call.float("alpha", 1.6732632423543772)
    gamma = call.float("gamma", 1.0507009873554805)
    return gamma * functional.elu(x, alpha)


def _thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call.float("alpha", 1.0), x, torch.zeros_like(x))


def _clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    # Up to opset 6 the bounds were attributes, from 11 on they are inputs.
    least = call.attributes.get("min") if low is None else low
    most = call.attributes.get("max") if high is None else high
    if least is not None:
        x = torch.maximum(x, torch.as_tensor(least, dtype=x.dtype))
    if most is not None:
        x = torch.minimum(x, torch.as_tensor(most, dtype=x.dtype))
    return x


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return (call.float("alpha", 0.2) * x + call.float("beta", 0.5)).clamp(0, 1)


def _dropout(call: Call, x: Tensor, *_: Tensor | None) -> Tensor:
    # In inference it passes everything on; a graph kept in training mode is another network.
    call.one_output()
    if len(_) == 2 and _[1] is not None and bool(_[1]):
        raise UnsupportedError("it is in training mode")
    return x


OPERATORS: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Ceil": _unary(torch.ceil),
    "Celu": lambda call, x: functional.celu(x, call.float("alpha", 1.0)),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _div,
    "Dropout": _dropout,
    "Elu": lambda call, x: functional.elu(x, call.float("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": lambda call, x: functional.gelu(x, approximate=call.text("approximate", "none")),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": lambda _, x: x,
    "IsInf": _unary(torch.isinf),
    "IsNaN": _unary(torch.isnan),
    "LeakyRelu": lambda call, x: functional.leaky_relu(x, call.float("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": lambda _, *inputs: functools.reduce(torch.add, inputs) / len(inputs),
    "Min": _variadic(torch.minimum),
    "Mish": _unary(functional.mish),
    "Mod": lambda call, a, b: torch.fmod(a, b) if call.int("fmod", 0) else torch.remainder(a, b),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": lambda _, x, slope: torch.where(x < 0, x * slope, x),
    "Pow": lambda _, base, exponent: torch.pow(base, exponent).to(base.dtype),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Selu": _selu,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softplus": lambda _, x: functional.softplus(x),
    "Softsign": lambda _, x: functional.softsign(x),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Swish": lambda call, x: x * torch.sigmoid(call.float("alpha", 1.0) * x),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": _thresholded_relu,
    "Where": lambda _, condition, a, b: torch.where(condition, a, b),
    "Xor": _binary(torch.logical_xor),
}
