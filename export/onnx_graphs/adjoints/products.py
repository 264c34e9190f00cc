"""Rules of matrix products, convolutions, reductions and normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from foldcam.export.onnx_graphs.adjoints.elementwise import unbroadcast
from foldcam.export.onnx_graphs.adjoints.step import Reach, Rule, Step
from foldcam.export.onnx_graphs.adjoints.tape import BATCH_SIZE, Row, sizes_at

# What a norm of zero is divided by.
_TINY = 1e-30


def _matmul_reach(step: Step) -> Reach:
    rank = len(step.made())
    rows: set[Row | None] = set()
    for position in step.depending():
        row, sizes = step.row(position), step.sizes(position)
        if min(len(step.sizes(each)) for each in (0, 1)) < 2:
            raise step.obstacle("of a vector")
        summed = len(sizes) - (1 if position == 0 else 2)
        if row is not None and row.axis != summed:
            rows.add(row.shifted(rank - len(sizes)))
        else:
            rows.add(None)
    return {0: rows.pop() if len(rows) == 1 else None}


def _matmul(step: Step, position: int, _: int, adjoint: str) -> str:
    tape, row = step.tape, step.row(position)
    sizes, made, other = step.sizes(position), step.made(), step.inputs[1 - position]
    other_sizes, rank = step.sizes(1 - position), len(made)
    summed, summed_there = len(sizes) - (1 - position) - position * 2, 2 - position
    # Where the row lies in the product, and in the other factor.
    outer = None if row is None or row.axis == summed else row.shifted(rank - len(sizes))
    if step.out_row() is None:
        adjoint = tape.narrow(adjoint, made, outer)
    if row is not None and row.axis == summed:
        at = len(other_sizes) - summed_there
        factor = tape.value(other, replace(row, axis=at))
    elif outer is not None and outer.axis < rank - 2:
        factor = tape.value(other, outer, rank)
    else:
        factor = tape.value(other)
    key = ("transposed", factor)
    flipped = tape.once(key, lambda: _swap_last(step, factor, len(other_sizes)))
    product = ("MatMul", adjoint, flipped) if position == 0 else ("MatMul", flipped, adjoint)
    has = [*sizes_at(made, outer)[:-2], *sizes_at(sizes, row)[-2:]]
    return unbroadcast(tape, tape.op(*product), has, sizes_at(sizes, row))


def _swap_last(step: Step, name: str, rank: int) -> str:
    order = [*range(rank - 2), rank - 1, rank - 2]
    return step.tape.op("Transpose", name, perm=order)


def _gemm_reach(step: Step) -> Reach:
    if step.integer("transA", 0) or 1 in step.depending():
        raise step.obstacle("whose first matrix is transposed or whose second is no weight")
    rows: set[Row | None] = set()
    for position in step.depending():
        row = step.row(position)
        if position == 2 and row is not None:
            row = row.shifted(2 - len(step.sizes(2)))
        rows.add(row if position == 2 or row is None or row.axis == 0 else None)
    return {0: rows.pop() if len(rows) == 1 else None}


def _gemm(step: Step, position: int, _: int, adjoint: str) -> str:
    tape, row, sizes, made = step.tape, step.row(position), step.sizes(position), step.made()
    if position == 2:
        outer = None if row is None else row.shifted(2 - len(sizes))
        if step.out_row() is None:
            adjoint = tape.narrow(adjoint, made, outer)
        scaled = tape.mul(adjoint, tape.number(step.float("beta", 1.0)))
        return unbroadcast(tape, scaled, sizes_at(made, outer), sizes_at(sizes, row))
    weights = tape.value(step.inputs[1])
    flip = 1 - step.integer("transB", 0)
    pulled = tape.op("Gemm", adjoint, weights, transB=flip, alpha=step.float("alpha", 1.0))
    return tape.narrow(pulled, sizes, row) if step.out_row() is None else pulled


def _conv_reach(step: Step) -> Reach:
    if step.depending() != [0]:
        raise step.obstacle("whose weights depend on what is differentiated")
    sizes, kernel, row = step.sizes(), step.sizes(1)[2:], step.row()
    padded = any(step.numbers("pads"))
    whole = list(kernel) == list(sizes[2:]) and not padded
    if not whole and any(each != 1 for each in step.numbers("strides")):
        raise step.obstacle("which strides over a map")
    if step.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise step.obstacle("which pads by itself")
    if row is not None and row.axis != 0:
        raise step.obstacle("which mixes tokens")
    return {0: row}


def _conv(step: Step, _: int, __: int, adjoint: str) -> str:
    tape, sizes, weights = step.tape, step.sizes(), step.sizes(1)
    factor, groups = tape.value(step.inputs[1]), step.integer("group", 1)
    if groups == weights[0] == sizes[1] and prod(weights[2:]) == 1:
        # One number per channel.
        shape = [groups] + [1] * (len(weights) - 2)
        scale = tape.once(("reshaped", factor), lambda: tape.reshape(factor, shape))
        return tape.mul(adjoint, scale)
    given = {name: step.numbers(name) for name in ("pads", "dilations")}
    kept = {name: value for name, value in given.items() if value}
    return tape.op("ConvTranspose", adjoint, factor, group=groups, **kept)


def _along(step: Step, axes: Sequence[int]) -> Row | None:
    """The row that what works along some axes hands on: all, where tokens are among them."""
    row = step.row()
    return None if row is not None and row.axis in axes else row


def _reduced(step: Step) -> list[int]:
    rank = len(step.sizes())
    if step.node.op_type == "GlobalAveragePool":
        return list(range(2, rank))
    axes = step.integers("axes", 1)
    if not axes and step.integer("noop_with_empty_axes", 0):
        return []
    return sorted({each % rank for each in axes} if axes else range(rank))


def _reduce_reach(step: Step) -> Reach:
    axes, sizes = _reduced(step), step.sizes()
    if any(sizes[axis] % BATCH_SIZE == 0 for axis in axes):
        raise step.obstacle("which sums over the batch")
    row = _along(step, axes)
    if row is not None and len(step.made()) < len(sizes):
        row = row.shifted(-sum(axis < row.axis for axis in axes))
    return {0: row}


def _reduce(step: Step, _: int, __: int, adjoint: str) -> str:
    tape, row, sizes, axes = step.tape, step.row(), step.sizes(), _reduced(step)
    wanted = sizes_at(sizes, row)
    kept = [1 if axis in axes else size for axis, size in enumerate(wanted)]
    if len(step.made()) < len(sizes):
        adjoint = tape.reshape(adjoint, kept)
    operator = step.node.op_type
    if operator in ("ReduceMean", "GlobalAveragePool"):
        adjoint = tape.mul(adjoint, tape.number(1 / prod(sizes[axis] for axis in axes)))
    if operator in ("ReduceSumSquare", "ReduceL2"):
        factor = tape.value(step.inputs[0], row)
        if operator == "ReduceL2":
            # At zero the gradient of a norm is zero, as torch has it.
            norm = tape.reshape(tape.value(step.outputs[0], step.out_row()), kept)
            scale = tape.op("Div", adjoint, tape.op("Max", norm, tape.number(_TINY)))
        else:
            scale = tape.mul(adjoint, tape.number(2.0))
        return tape.mul(scale, factor)
    return tape.expand(adjoint, kept, wanted)


def _axis(step: Step) -> int:
    return step.integer("axis", -1) % len(step.sizes())


def _axis_reach(step: Step) -> Reach:
    return {0: _along(step, [_axis(step)])}


def _softmax(step: Step, _: int, __: int, adjoint: str) -> str:
    tape, whole = step.tape, step.out_row()
    shares = tape.value(step.outputs[0], whole)
    weighted = tape.mul(adjoint, shares)
    total = tape.reduce("ReduceSum", weighted, [_axis(step)])
    pulled = tape.op("Sub", weighted, tape.mul(shares, total))
    return tape.narrow(pulled, step.sizes(), step.row()) if whole is None else pulled


def _normalized(step: Step) -> list[int]:
    return list(range(_axis(step), len(step.sizes())))


def _norm_reach(step: Step) -> Reach:
    if any(step.outputs[1:]) or step.depending() != [0]:
        raise step.obstacle("whose further outputs are used or whose scale is computed")
    if step.node.op_type == "LpNormalization":
        return _axis_reach(step)
    return {0: _along(step, _normalized(step))}


def _layer_norm(step: Step, _: int, __: int, adjoint: str) -> str:
    """`a s / d - mean(a s / d)` with the deviation `d` held, see `torch_cut.hold_scales`."""
    tape, whole, axes = step.tape, step.out_row(), _normalized(step)
    centring = step.node.op_type == "LayerNormalization"
    value = tape.value(step.inputs[0], whole)
    if centring:
        value = tape.op("Sub", value, tape.reduce("ReduceMean", value, axes))
    square = tape.reduce("ReduceMean", tape.mul(value, value), axes)
    bounded = tape.op("Add", square, tape.number(step.float("epsilon", 1e-5)))
    scaled = tape.mul(adjoint, tape.value(step.inputs[1], whole, len(step.sizes())))
    pulled = tape.op("Div", scaled, tape.op("Sqrt", bounded))
    if centring:
        pulled = tape.op("Sub", pulled, tape.reduce("ReduceMean", pulled, axes))
    return tape.narrow(pulled, step.sizes(), step.row()) if whole is None else pulled


def _unit(step: Step, _: int, __: int, adjoint: str) -> str:
    """Of an L2 (or L1) normalisation: over the norm, which is held."""
    tape, whole = step.tape, step.out_row()
    operator = "ReduceL2" if step.integer("p", 2) == 2 else "ReduceL1"
    norm = tape.reduce(operator, tape.value(step.inputs[0], whole), [_axis(step)])
    pulled = tape.op("Div", adjoint, tape.op("Max", norm, tape.number(_TINY)))
    return tape.narrow(pulled, step.sizes(), step.row()) if whole is None else pulled


_REDUCE = Rule(_reduce_reach, _reduce)

RULES: dict[str, Rule] = {
    "Conv": Rule(_conv_reach, _conv),
    "Gemm": Rule(_gemm_reach, _gemm),
    "GlobalAveragePool": _REDUCE,
    "LayerNormalization": Rule(_norm_reach, _layer_norm),
    "LpNormalization": Rule(_norm_reach, _unit),
    "MatMul": Rule(_matmul_reach, _matmul),
    "RMSNormalization": Rule(_norm_reach, _layer_norm),
    "ReduceL2": _REDUCE,
    "ReduceMean": _REDUCE,
    "ReduceSum": _REDUCE,
    "ReduceSumSquare": _REDUCE,
    "Softmax": Rule(_axis_reach, _softmax),
}
