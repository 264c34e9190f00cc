"""Rules of the operators that work number by number, with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from foldcam.export.onnx_graphs.adjoints.activations import FACTORS, Factor, Local
from foldcam.export.onnx_graphs.adjoints.step import Reach, Rule, Step
from foldcam.export.onnx_graphs.adjoints.tape import Tape, sizes_at

_MOST_TERMS = 64
# What has steps and no slope.
_FLAT_OPERATORS = (
    *("And", "ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf"),
    *("IsNaN", "Less", "LessOrEqual", "Not", "Or", "Round", "Sign"),
)


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


def _minus_one(at: Local) -> str:
    return at.tape.number(-1.0)


def _by_divisor(at: Local) -> str:
    # The quotient may have been rounded to half precision, or to zero: from its parts.
    square = at.tape.mul(at.given(1), at.given(1))
    return at.tape.op("Neg", at.tape.op("Div", at.given(0), square))


def _power(at: Local) -> str:
    exponent = at.tape.constant(at.step.inputs[1])
    if exponent is None:
        raise at.step.obstacle("whose exponent is computed")
    power = exponent.astype(np.float32)
    if power.size == 1 and float(power.reshape(-1)[0]) in (2.0, 3.0):
        # Without a power, which not every library computes of negative numbers.
        scaled = at.tape.mul(at.tape.number(power.reshape(-1)[0]), at.given())
        return scaled if power.reshape(-1)[0] == 2.0 else at.tape.mul(scaled, at.given())
    root = at.tape.op("Pow", at.given(), at.tape.number(power - 1))
    return at.tape.mul(at.tape.number(power), root)


def _chosen(position: int, operator: str) -> Factor:
    """Of Max and Min, of two inputs."""

    def factor(at: Local) -> str:
        if len(at.step.inputs) != 2:
            raise at.step.obstacle("of other than two values")
        condition = at.tape.op(operator, at.given(position), at.given(1 - position))
        return at.tape.indicator(condition)

    return factor


def _branch(values: tuple[float, float]) -> Factor:
    """Of Where: the derivative where the condition holds, and where it does not."""

    def factor(at: Local) -> str:
        condition = at.given(0, cast=False)
        return at.tape.where(condition, *(at.tape.number(each) for each in values))

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


def _channels(step: Step) -> Reach:
    row = step.row()
    if row is not None and row.axis == 1:
        raise step.obstacle("whose channels are tokens")
    return _reach(step)


def _flat(_: Step) -> Reach:
    """Nothing flows back."""
    return {}


def _no_pull(step: Step, *_: object) -> str:
    raise step.obstacle("which has no slope")


_SAME = _elementwise(None)

RULES: dict[str, Rule] = {
    **{name: _elementwise(*factors) for name, factors in FACTORS.items()},
    **dict.fromkeys(_FLAT_OPERATORS, Rule(_flat, _no_pull)),
    "Abs": _elementwise(lambda at: at.tape.op("Sign", at.given())),
    "Add": _elementwise(None, None),
    "BatchNormalization": replace(_elementwise(_batch_normalization), reach=_channels),
    "Cast": replace(_SAME, reach=_cast),
    "Div": _elementwise(lambda at: at.tape.op("Reciprocal", at.given(1)), _by_divisor),
    "Dropout": replace(_SAME, reach=_dropout),
    "Exp": _elementwise(lambda at: at.result),
    "Expand": _SAME,
    "Identity": _SAME,
    "Log": _elementwise(lambda at: at.tape.op("Reciprocal", at.given())),
    "Max": _elementwise(_chosen(0, "Greater"), _chosen(1, "Greater")),
    "Min": _elementwise(_chosen(0, "Less"), _chosen(1, "Less")),
    "Mul": _elementwise(lambda at: at.given(1), lambda at: at.given(0)),
    "Neg": _elementwise(_minus_one),
    "Pow": _elementwise(_power),
    "Reciprocal": _elementwise(lambda at: at.tape.op("Neg", at.tape.mul(at.result, at.result))),
    "Sqrt": _elementwise(lambda at: at.tape.op("Div", at.tape.number(0.5), at.result)),
    "Sub": _elementwise(None, _minus_one),
    "Sum": _elementwise(*[None] * _MOST_TERMS),
    "Where": _elementwise(None, _branch((1.0, 0.0)), _branch((0.0, 1.0))),
}
