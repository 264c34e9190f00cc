"""Rules of the operators that work number by number, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from foldcam.export.adjoints.rows import Row, sizes_at
from foldcam.export.adjoints.step import Reach, Rule, Step
from foldcam.export.adjoints.tape import Tape

_MOST_TERMS = 64
_SELU = 1.6732632423543772, 1.0507009873554805


class Local:
    """The numbers of one elementwise node where its derivative is taken.

    Args:
        step: the node.
        row: the row of its output that is asked for.
    """

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


def _reach(step: Step) -> Reach:
    rank = len(step.made())
    rows = set()
    for position in step.depending():
        row = step.row(position)
        rows.add(None if row is None else row.shifted(rank - len(step.sizes(position))))
    # Where several rows meet, the output depends on the source everywhere.
    return {0: rows.pop() if len(rows) == 1 else None}


def _elementwise(*factors: Factor | None) -> Rule:
    """The rule of an operator with these derivatives for its first inputs; None is 1."""

    def pull(step: Step, position: int, _: int, adjoint: str) -> str:
        if position >= len(factors):
            raise step.obstacle("whose parameters depend on what is differentiated")
        factor = factors[position]
        own, whole = step.row(position), step.out_row()
        sizes, made = step.sizes(position), step.made()
        row = None if own is None else own.shifted(len(made) - len(sizes))
        if whole is None:
            adjoint = step.tape.narrow(adjoint, made, row)
        if factor is not None:
            adjoint = step.tape.mul(adjoint, factor(Local(step, row)))
        return unbroadcast(step.tape, adjoint, sizes_at(made, row), sizes_at(sizes, own))

    return Rule(_reach, pull)


def unbroadcast(tape: Tape, adjoint: str, has: Sequence[int], sizes: Sequence[int]) -> str:
    """Sum an adjoint over the axes along which its value was repeated."""
    added = len(has) - len(sizes)
    padded = [1] * added + list(sizes)
    axes = [at for at, (old, new) in enumerate(zip(has, padded, strict=True)) if old != new]
    if axes:
        adjoint = tape.reduce("ReduceSum", adjoint, axes)
    return tape.reshape(adjoint, sizes) if added else adjoint


def _where(tape: Tape, condition: str, then: str, otherwise: str) -> str:
    return tape.op("Where", condition, then, otherwise)


def _indicator(tape: Tape, condition: str) -> str:
    return _where(tape, condition, tape.number(1.0), tape.number(0.0))


def _minus_one(at: Local) -> str:
    return at.tape.number(-1.0)


def _one_over_divisor(at: Local) -> str:
    return at.tape.op("Reciprocal", at.given(1))


def _by_divisor(at: Local) -> str:
    # The quotient may have been rounded to half precision, or to zero: from its parts.
    square = at.tape.mul(at.given(1), at.given(1))
    return at.tape.op("Neg", at.tape.op("Div", at.given(0), square))


def _power(at: Local) -> str:
    exponent = at.tape.constant(at.step.inputs[1])
    if exponent is None:
        raise at.step.obstacle("whose exponent is computed")
    power = exponent.astype(np.float32)
    if power.size == 1 and float(power.reshape(-1)[0]) == 2.0:
        return at.tape.mul(at.tape.number(2.0), at.given())
    root = at.tape.op("Pow", at.given(), at.tape.number(power - 1))
    return at.tape.mul(at.tape.number(power), root)


def _relu(at: Local) -> str:
    return _indicator(at.tape, at.tape.op("Greater", at.result, at.tape.number(0.0)))


def _sloped(at: Local, slope: str) -> str:
    positive = at.tape.op("Greater", at.given(), at.tape.number(0.0))
    return _where(at.tape, positive, at.tape.number(1.0), slope)


def _leaky_relu(at: Local) -> str:
    return _sloped(at, at.tape.number(at.step.float("alpha", 0.01)))


def _prelu(at: Local) -> str:
    return _sloped(at, at.given(1))


def _prelu_slope(at: Local) -> str:
    return at.tape.op("Min", at.given(), at.tape.number(0.0))


def _clip(at: Local) -> str:
    inside = at.tape.number(1.0)
    for position, operator in ((1, "Greater"), (2, "Less")):
        if position < len(at.step.inputs) and at.step.inputs[position]:
            within = at.tape.op(operator, at.result, at.tape.value(at.step.inputs[position]))
            inside = _where(at.tape, within, inside, at.tape.number(0.0))
    return inside


def _sigmoid(at: Local) -> str:
    return at.tape.mul(at.result, at.tape.op("Sub", at.tape.number(1.0), at.result))


def _hard_sigmoid(at: Local) -> str:
    slope = at.tape.number(at.step.float("alpha", 0.2))
    rises = _where(
        at.tape,
        at.tape.op("Greater", at.result, at.tape.number(0.0)),
        slope,
        at.tape.number(0.0),
    )
    below = at.tape.op("Less", at.result, at.tape.number(1.0))
    return _where(at.tape, below, rises, at.tape.number(0.0))


def _hard_swish(at: Local) -> str:
    tape, x = at.tape, at.given()
    middle = tape.op("Add", tape.mul(x, tape.number(1 / 3)), tape.number(0.5))
    above = _where(tape, tape.op("Greater", x, tape.number(-3.0)), middle, tape.number(0.0))
    return _where(tape, tape.op("Less", x, tape.number(3.0)), above, tape.number(1.0))


def _tanh_of(tape: Tape, result: str) -> str:
    return tape.op("Sub", tape.number(1.0), tape.mul(result, result))


def _tanh(at: Local) -> str:
    return _tanh_of(at.tape, at.result)


def _bell(tape: Tape, x: str, narrowness: float, height: float) -> str:
    """`height * exp(-narrowness x^2)`."""
    exponent = tape.mul(tape.mul(x, x), tape.number(-narrowness))
    return tape.mul(tape.op("Exp", exponent), tape.number(height))


def _erf(at: Local) -> str:
    return _bell(at.tape, at.given(), 1.0, 2 / math.sqrt(math.pi))


def _gelu(at: Local) -> str:
    tape, x = at.tape, at.given()
    one, half = tape.number(1.0), tape.number(0.5)
    if at.step.attribute("approximate", "none") == "tanh":
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
    return _where(tape, positive, tape.number(gain), below)


def _elu(at: Local) -> str:
    return _exponential_below(at, at.step.float("alpha", 1.0), 1.0)


def _selu(at: Local) -> str:
    alpha, gain = at.step.float("alpha", _SELU[0]), at.step.float("gamma", _SELU[1])
    return _exponential_below(at, alpha, gain)


def _softsign(at: Local) -> str:
    size = at.tape.op("Add", at.tape.number(1.0), at.tape.op("Abs", at.given()))
    return at.tape.op("Reciprocal", at.tape.mul(size, size))


def _square_root(at: Local) -> str:
    return at.tape.op("Div", at.tape.number(0.5), at.result)


def _reciprocal(at: Local) -> str:
    return at.tape.op("Neg", at.tape.mul(at.result, at.result))


def _chosen(position: int, operator: str) -> Factor:
    """Of Max and Min, of two inputs."""

    def factor(at: Local) -> str:
        if len(at.step.inputs) != 2:
            raise at.step.obstacle("of other than two values")
        condition = at.tape.op(operator, at.given(position), at.given(1 - position))
        return _indicator(at.tape, condition)

    return factor


def _branch(values: tuple[float, float]) -> Factor:
    """Of Where: the derivative where the condition holds, and where it does not."""

    def factor(at: Local) -> str:
        condition = at.given(0, cast=False)
        return _where(at.tape, condition, *(at.tape.number(each) for each in values))

    return factor


def _batch_normalization(at: Local) -> str:
    tape, step = at.tape, at.step
    if any(step.outputs[1:]) or step.integer("training_mode", 0):
        raise step.obstacle("which is in training mode")
    variance = tape.op("Add", tape.value(step.inputs[4]), tape.number(step.float("epsilon", 1e-5)))
    scale = tape.op("Div", tape.value(step.inputs[1]), tape.op("Sqrt", variance))
    channels = step.sizes(1)[0]
    return tape.reshape(scale, [channels] + [1] * (len(step.sizes()) - 2))


def _dropout(step: Step) -> Reach:
    training = step.tape.constant(step.inputs[2]) if len(step.inputs) > 2 else np.zeros(1)
    if any(step.outputs[1:]) or training is None or bool(training):
        raise step.obstacle("which is in training mode")
    return _reach(step)


def _cast(step: Step) -> Reach:
    if not step.tape.is_float(step.outputs[0]):
        raise step.obstacle("which rounds to whole numbers")
    return _reach(step)


def _row_free(rule: Rule) -> Rule:
    """For operators whose other inputs are one number per channel."""

    def reach(step: Step) -> Reach:
        row = step.row()
        if row is not None and row.axis == 1:
            raise step.obstacle("whose channels are tokens")
        return rule.reach(step)

    return replace(rule, reach=reach)


def _flat(_: Step) -> Reach:
    """Of what has steps and no slope: nothing flows back."""
    return {}


def _no_pull(step: Step, *_: object) -> str:
    raise step.obstacle("which has no slope")


_SAME = _elementwise(None)
_FLAT = Rule(_flat, _no_pull)

RULES: dict[str, Rule] = {
    "Abs": _elementwise(lambda at: at.tape.op("Sign", at.given())),
    "Add": _elementwise(None, None),
    "BatchNormalization": _row_free(_elementwise(_batch_normalization)),
    "Cast": replace(_SAME, reach=_cast),
    "Clip": _elementwise(_clip),
    "Div": _elementwise(_one_over_divisor, _by_divisor),
    "Dropout": replace(_SAME, reach=_dropout),
    "Elu": _elementwise(_elu),
    "Erf": _elementwise(_erf),
    "Exp": _elementwise(lambda at: at.result),
    "Expand": _SAME,
    "Gelu": _elementwise(_gelu),
    "HardSigmoid": _elementwise(_hard_sigmoid),
    "HardSwish": _elementwise(_hard_swish),
    "Identity": _SAME,
    "LeakyRelu": _elementwise(_leaky_relu),
    "Log": _elementwise(lambda at: at.tape.op("Reciprocal", at.given())),
    "Max": _elementwise(_chosen(0, "Greater"), _chosen(1, "Greater")),
    "Min": _elementwise(_chosen(0, "Less"), _chosen(1, "Less")),
    "Mish": _elementwise(_mish),
    "Mul": _elementwise(lambda at: at.given(1), lambda at: at.given(0)),
    "Neg": _elementwise(_minus_one),
    "PRelu": _elementwise(_prelu, _prelu_slope),
    "Pow": _elementwise(_power),
    "Reciprocal": _elementwise(_reciprocal),
    "Relu": _elementwise(_relu),
    "Selu": _elementwise(_selu),
    "Sigmoid": _elementwise(_sigmoid),
    "Softplus": _elementwise(lambda at: at.tape.op("Sigmoid", at.given())),
    "Softsign": _elementwise(_softsign),
    "Sqrt": _elementwise(_square_root),
    "Sub": _elementwise(None, _minus_one),
    "Sum": _elementwise(*[None] * _MOST_TERMS),
    "Swish": _elementwise(_swish),
    "Tanh": _elementwise(_tanh),
    **dict.fromkeys(("And", "ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater"), _FLAT),
    **dict.fromkeys(("GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not"), _FLAT),
    **dict.fromkeys(("Or", "Round", "Sign"), _FLAT),
    "Where": _elementwise(None, _branch((1.0, 0.0)), _branch((0.0, 1.0))),
}
