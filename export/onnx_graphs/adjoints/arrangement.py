"""Rules of the operators that rearrange numbers: reshapes, transposes, parts and joints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldcam.export.onnx_graphs.adjoints.step import Reach, Rule, Step
from foldcam.export.onnx_graphs.adjoints.tape import BATCH_SIZE, Row, Sizes, Tape, sizes_at


def _reshape_reach(step: Step) -> Reach:
    return {0: step.moved(step.row(), step.sizes(), step.made())}


def _reshape(step: Step, _: int, __: int, adjoint: str) -> str:
    return step.tape.reshape(adjoint, sizes_at(step.sizes(), step.row()))


def _order(step: Step) -> list[int]:
    """Which axis of the input each axis of the output is."""
    return step.numbers("perm") or list(reversed(range(len(step.sizes()))))


def _transpose_reach(step: Step) -> Reach:
    row = step.row()
    return {0: None if row is None else row.shifted(_order(step).index(row.axis) - row.axis)}


def _transpose(step: Step, _: int, __: int, adjoint: str) -> str:
    return step.tape.op("Transpose", adjoint, perm=[int(n) for n in np.argsort(_order(step))])


Part = tuple[int, list[int]]
"""An axis, and the positions of it that are taken."""


def _slice_parts(step: Step, _: int) -> list[Part]:
    starts, ends = step.integers("starts", 1), step.integers("ends", 2)
    axes, steps = step.integers("axes", 3), step.integers("steps", 4)
    assert starts is not None
    assert ends is not None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    sizes, parts = step.sizes(), []
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        at = axis % len(sizes)
        # Python's own rule for slices is ONNX's, but for an end before the first number.
        stop = None if stride < 0 and end < -sizes[at] else end
        parts.append((at, list(range(sizes[at])[start:stop:stride])))
    return parts


def _split_parts(step: Step, output: int) -> list[Part]:
    axis = step.integer("axis", 0) % len(step.sizes())
    start = sum(step.made(before)[axis] for before in range(output))
    return [(axis, list(range(start, start + step.made(output)[axis])))]


def _gather_parts(step: Step, _: int) -> list[Part]:
    index = step.tape.constant(step.inputs[1])
    if index is None or index.ndim > 1:
        raise step.obstacle("whose positions are computed" if index is None else "of a table")
    axis = step.integer("axis", 0) % len(step.sizes())
    size = step.sizes()[axis]
    positions = [int(each) % size for each in index.reshape(-1)]
    if len(set(positions)) < len(positions):
        raise step.obstacle("which repeats a position")
    return [(axis, positions)]


_PARTS = {"Slice": _slice_parts, "Split": _split_parts, "Gather": _gather_parts}


def _parts(step: Step, output: int) -> list[Part]:
    """What an output takes of the first input, without the axes of which it takes all."""
    sizes, parts = step.sizes(), _PARTS[step.node.op_type](step, output)
    kept = [(axis, p) for axis, p in parts if p != list(range(sizes[axis]))]
    if any(sizes[axis] % BATCH_SIZE == 0 for axis, _ in kept):
        raise step.obstacle("which picks images of the batch")
    return kept


def _drops_axis(step: Step) -> int | None:
    """The axis that a Gather of one position leaves out."""
    if step.node.op_type != "Gather" or len(step.made()) == len(step.sizes()):
        return None
    return step.integer("axis", 0) % len(step.sizes())


def _take_reach(step: Step) -> Reach:
    reached: dict[int, Row | None] = {}
    for output, name in enumerate(step.outputs):
        row = step.row()
        for axis, positions in _parts(step, output) if name else ():
            if not positions:
                break
            if row is None or axis != row.axis:
                continue
            if not row.is_whole_axis(step.sizes()):
                raise step.obstacle("which takes parts of an axis that holds tokens and more")
            if row.index not in positions:
                break
            place, count = positions.index(row.index), len(positions)
            row = Row(axis, count, place) if count > 1 else None
        else:
            dropped = _drops_axis(step)
            if row is not None and dropped is not None and dropped < row.axis:
                row = row.shifted(-1)
            if name:
                reached[output] = row
    return reached


def _take(step: Step, _: int, output: int, adjoint: str) -> str:
    row, sizes = step.row(), step.sizes()
    parts = _parts(step, output)
    # Along the axis of tokens the adjoint holds the one row already.
    parts = [(axis, p) for axis, p in parts if row is None or axis != row.axis]
    has = list(sizes_at(sizes, row))
    for axis, positions in parts:
        has[axis] = len(positions)
    if _drops_axis(step) is not None:
        adjoint = step.tape.reshape(adjoint, has)
    for axis, positions in parts:
        adjoint = place(step.tape, adjoint, len(sizes), axis, positions, sizes[axis])
    return adjoint


def place(
    tape: Tape, adjoint: str, rank: int, axis: int, positions: Sequence[int], size: int
) -> str:
    """Put an adjoint back to the positions of an axis that it is about; the others are zero."""
    first, last = positions[0], positions[-1]
    if list(positions) == list(range(first, last + 1)):
        return pad(tape, adjoint, rank, axis, first, size - 1 - last)
    # What nobody took is read from one zero more.
    adjoint = pad(tape, adjoint, rank, axis, 0, 1)
    back = [positions.index(at) if at in positions else len(positions) for at in range(size)]
    return tape.op("Gather", adjoint, tape.integers(*back), axis=axis)


def pad(tape: Tape, name: str, rank: int, axis: int, before: int, behind: int) -> str:
    """Zeros around an axis."""
    if not before and not behind:
        return name
    amounts = [0] * (2 * rank)
    amounts[axis], amounts[rank + axis] = before, behind
    return tape.op("Pad", name, tape.integers(*amounts), tape.number(0.0))


def _concat_places(step: Step) -> tuple[int, list[int]]:
    axis = step.integer("axis", 0) % len(step.made())
    starts = [0]
    for position in range(len(step.inputs)):
        starts.append(starts[-1] + step.sizes(position)[axis])
    return axis, starts


def _concat_reach(step: Step) -> Reach:
    axis, starts = _concat_places(step)
    rows = set()
    for position in step.depending():
        row, sizes = step.row(position), step.sizes(position)
        if row is None and sizes[axis] == 1:
            # One token, put beside others.
            row = Row(axis, 1, 0)
        if row is not None and row.axis == axis:
            if not row.is_whole_axis(sizes):
                raise step.obstacle("which joins an axis that holds tokens and more")
            row = Row(axis, starts[-1], starts[position] + row.index)
        rows.add(row)
    row = rows.pop() if len(rows) == 1 else None
    return {0: None if row is not None and row.count == 1 else row}


def _concat(step: Step, position: int, _: int, adjoint: str) -> str:
    axis, starts = _concat_places(step)
    row, whole = step.row(position), step.out_row()
    if whole is not None and whole.axis == axis:
        return adjoint
    start, end = (starts[position], starts[position + 1])
    made: Sizes = sizes_at(step.made(), whole)
    if (start, end) != (0, made[axis]):
        bounds = (step.tape.integers(each) for each in (start, end, axis))
        adjoint = step.tape.op("Slice", adjoint, *bounds)
    return step.tape.narrow(adjoint, step.sizes(position), row) if whole is None else adjoint


_RESHAPE = Rule(_reshape_reach, _reshape)
_TAKE = Rule(_take_reach, _take)

RULES: dict[str, Rule] = {
    "Concat": Rule(_concat_reach, _concat),
    "Flatten": _RESHAPE,
    "Gather": _TAKE,
    "Reshape": _RESHAPE,
    "Slice": _TAKE,
    "Split": _TAKE,
    "Squeeze": _RESHAPE,
    "Transpose": Rule(_transpose_reach, _transpose),
    "Unsqueeze": _RESHAPE,
}
