"""Derivatives of activation functions, as nodes of the graph."""

from __future__ import annotations

import math
from collections.abc import Callable

from foldcam.export.onnx_graphs.adjoints.step import Step
from foldcam.export.onnx_graphs.adjoints.tape import Row, Tape

_SELU = 1.6732632423543772, 1.0507009873554805


class Local:
    """The numbers of one elementwise node where its derivative is taken."""

    def __init__(self, step: Step, row: Row | None) -> None:
        self.step, self.tape, self._row = step, step.tape, row
        self._rank = len(step.made())

    def given(self, position: int = 0, *, cast: bool = True) -> str:
        """An input, in float32 unless it is a condition."""
        return self.tape.value(self.step.inputs[position], self._row, self._rank, cast=cast)

    @property
    def result(self) -> str:
        """The output, in float32."""
        return self.tape.value(self.step.outputs[0], self._row)


Factor = Callable[[Local], str]
"""Adds the derivative of an output with respect to one input; returns its name."""


def _sloped(at: Local, slope: str) -> str:
    positive = at.tape.op("Greater", at.given(), at.tape.number(0.0))
    return at.tape.where(positive, at.tape.number(1.0), slope)


def _prelu_slope(at: Local) -> str:
    return at.tape.op("Min", at.given(), at.tape.number(0.0))


def _clip(at: Local) -> str:
    inside = at.tape.number(1.0)
    for position, operator in ((1, "Greater"), (2, "Less")):
        if position < len(at.step.inputs) and at.step.inputs[position]:
            within = at.tape.op(operator, at.result, at.tape.value(at.step.inputs[position]))
            inside = at.tape.where(within, inside, at.tape.number(0.0))
    return inside


def _sigmoid(at: Local) -> str:
    return at.tape.mul(at.result, at.tape.op("Sub", at.tape.number(1.0), at.result))


def _hard_sigmoid(at: Local) -> str:
    slope = at.tape.number(at.step.float("alpha", 0.2))
    rises = at.tape.where(
        at.tape.op("Greater", at.result, at.tape.number(0.0)), slope, at.tape.number(0.0)
    )
    below = at.tape.op("Less", at.result, at.tape.number(1.0))
    return at.tape.where(below, rises, at.tape.number(0.0))


def _hard_swish(at: Local) -> str:
    tape, x = at.tape, at.given()
    middle = tape.op("Add", tape.mul(x, tape.number(1 / 3)), tape.number(0.5))
    above = tape.where(tape.op("Greater", x, tape.number(-3.0)), middle, tape.number(0.0))
    return tape.where(tape.op("Less", x, tape.number(3.0)), above, tape.number(1.0))


def _tanh_of(tape: Tape, result: str) -> str:
    return tape.op("Sub", tape.number(1.0), tape.mul(result, result))


def _bell(tape: Tape, x: str, narrowness: float, height: float) -> str:
    """`height * exp(-narrowness x^2)`."""
    exponent = tape.mul(tape.mul(x, x), tape.number(-narrowness))
    return tape.mul(tape.op("Exp", exponent), tape.number(height))


def _gelu(at: Local) -> str:
    tape, x = at.tape, at.given()
    one, half = tape.number(1.0), tape.number(0.5)
    if at.step.text("approximate", "none") == "tanh":
        # y = x (1 + tanh u) / 2 with u = c (x + 0.044715 x^3)
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        square = tape.mul(x, x)
        inner = tape.op("Add", one, tape.mul(square, tape.number(cubic)))
        gate = tape.op("Tanh", tape.mul(tape.mul(x, inner), tape.number(scale)))
        slope = tape.op("Add", one, tape.mul(square, tape.number(3 * cubic)))
        density = tape.mul(_tanh_of(tape, gate), tape.mul(slope, tape.number(scale / 2)))
    else:
        gate = tape.op("Erf", tape.mul(x, tape.number(1 / math.sqrt(2))))
        density = _bell(tape, x, 0.5, 1 / math.sqrt(2 * math.pi))
    share = tape.mul(half, tape.op("Add", one, gate))
    return tape.op("Add", share, tape.mul(x, density))


def _swish(at: Local) -> str:
    # y = x s(alpha x); y' = s + alpha y (1 - s)
    tape, alpha = at.tape, at.step.float("alpha", 1.0)
    gate = tape.op("Sigmoid", tape.mul(at.given(), tape.number(alpha)))
    rest = tape.mul(tape.op("Sub", tape.number(1.0), gate), tape.number(alpha))
    return tape.op("Add", gate, tape.mul(at.result, rest))


def _mish(at: Local) -> str:
    # y = x t with t = tanh(softplus(x)); y' = t + x (1 - t^2) sigmoid(x)
    tape, x = at.tape, at.given()
    gate = tape.op("Tanh", tape.op("Softplus", x))
    slope = tape.mul(_tanh_of(tape, gate), tape.op("Sigmoid", x))
    return tape.op("Add", gate, tape.mul(x, slope))


def _exponential_below(at: Local, alpha: float, gain: float) -> str:
    """`gain` above zero, `gain alpha exp(x)` below."""
    tape, x = at.tape, at.given()
    # Nothing overflows on the side that is not taken.
    negative = tape.op("Exp", tape.op("Min", x, tape.number(0.0)))
    below = tape.mul(negative, tape.number(gain * alpha))
    positive = tape.op("Greater", x, tape.number(0.0))
    return tape.where(positive, tape.number(gain), below)


def _selu(at: Local) -> str:
    alpha, gain = at.step.float("alpha", _SELU[0]), at.step.float("gamma", _SELU[1])
    return _exponential_below(at, alpha, gain)


def _softsign(at: Local) -> str:
    size = at.tape.op("Add", at.tape.number(1.0), at.tape.op("Abs", at.given()))
    return at.tape.op("Reciprocal", at.tape.mul(size, size))


FACTORS: dict[str, tuple[Factor, ...]] = {
    "Clip": (_clip,),
    "Elu": (lambda at: _exponential_below(at, at.step.float("alpha", 1.0), 1.0),),
    "Erf": (lambda at: _bell(at.tape, at.given(), 1.0, 2 / math.sqrt(math.pi)),),
    "Gelu": (_gelu,),
    "HardSigmoid": (_hard_sigmoid,),
    "HardSwish": (_hard_swish,),
    "LeakyRelu": (lambda at: _sloped(at, at.tape.number(at.step.float("alpha", 0.01))),),
    "Mish": (_mish,),
    "PRelu": (lambda at: _sloped(at, at.given(1)), _prelu_slope),
    "Relu": (lambda at: at.tape.indicator(at.tape.op("Greater", at.result, at.tape.number(0.0))),),
    "Selu": (_selu,),
    "Sigmoid": (_sigmoid,),
    "Softplus": (lambda at: at.tape.op("Sigmoid", at.given()),),
    "Softsign": (_softsign,),
    "Swish": (_swish,),
    "Tanh": (lambda at: _tanh_of(at.tape, at.result),),
}
"""Operator -> the derivatives with respect to its inputs."""
