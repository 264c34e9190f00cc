"""What the rules of a vector-Jacobian product read from a graph, and the nodes they write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from foldcam.export.onnx_graphs.session import Array, constant_of
from foldcam.export.onnx_graphs.value_sizes import inferred_in_batch
from foldcam.export.onnx_graphs.writing import PREFIX, Graft

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """The positions `(o * count + index) * inner + i` of one axis, for every `o` and `i < inner`.

    Behind an attention every value has an axis of tokens, and the class token's row of it depends
    on the class token's row of the attention alone. A gradient is zero everywhere else, so only
    that row of it is computed. An axis of `count` tokens alone has `inner` 1; tokens that a reshape
    put into one axis with what is before and behind them are found in it by these numbers.

    Attributes:
        count: how many rows there are, at least 2.
        inner: positions of the axis that one row takes.
    """

    axis: int
    count: int
    index: int
    inner: int = 1

    def shifted(self, by: int) -> Row:
        """The same row where there are more axes before it, or fewer."""
        return replace(self, axis=self.axis + by)

    def is_whole_axis(self, sizes: Sequence[int]) -> bool:
        """Whether its axis holds rows and nothing else."""
        return self.inner == 1 and sizes[self.axis] == self.count


def sizes_at(sizes: Sequence[int], row: Row | None) -> Sizes:
    """The sizes of a value of which only one row is kept."""
    return tuple(
        size // row.count if row is not None and axis == row.axis else size
        for axis, size in enumerate(sizes)
    )


def reshaped(row: Row, before: Sequence[int], after: Sequence[int]) -> Row | None:
    """Where a row lies after a reshape, None where its axis of rows was torn apart."""
    stride = row.inner * prod(before[row.axis + 1 :])
    for axis, size in enumerate(after):
        below = prod(after[axis + 1 :])
        if stride % below == 0 and size % (row.count * (stride // below)) == 0:
            return Row(axis, row.count, row.index, stride // below)
    return None


BATCH_SIZE = 8191
"""Stands for the open batch in sizes: a prime, so that a size depends on the batch if it divides
it, whatever other axes a reshape put the batch together with."""


class ObstacleError(Exception):
    """A step cannot be differentiated in the graph; the text is a clause that says why."""


class Tape:
    """The values of a graph, by what a derivative needs to know of them, and its new nodes.

    Args:
        graft: adds the nodes.

    Attributes:
        sizes: of every value as far as they are known, with `BATCH_SIZE` for the batch.
        rows: of every value that depends on the source, which row does; None for all of it.
    """

    def __init__(self, graft: Graft) -> None:
        self._graft = graft
        graph = graft.graph
        self.opset = graft.opset
        self.sizes: dict[str, Sizes] = {}
        self.rows: dict[str, Row | None] = {}
        self._types: dict[str, int] = {}
        typed = inferred_in_batch(graph, graft.opset, BATCH_SIZE).graph
        for value in [*typed.input, *typed.value_info, *typed.output]:
            self._note(value)
        self._tensors = {str(tensor.name): tensor for tensor in graph.initializer}
        for name, tensor in self._tensors.items():
            self.sizes[name], self._types[name] = tuple(tensor.dims), tensor.data_type
        self._constant_nodes = {
            str(node.output[0]): node for node in graph.node if node.op_type == "Constant"
        }
        # Every call's nodes have names of their own.
        taken = sum(name.startswith(f"{PREFIX}pull_back") for name in self._written())
        self._stem, self._count = f"pull_back.{taken}" if taken else "pull_back", 0
        self._made: dict[tuple[object, ...], str] = {}

    def _note(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        self._types[value.name] = kind.elem_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            self.sizes[value.name] = tuple(int(dim.dim_value) for dim in kind.shape.dim)

    def _written(self) -> list[str]:
        return [str(name) for node in self._graft.graph.node for name in node.output]

    def constant(self, name: str) -> Array | None:
        """The number(s) of a constant, None where the value is computed."""
        if name in self._tensors:
            return numpy_helper.to_array(self._tensors[name])
        node = self._constant_nodes.get(name)
        return None if node is None else constant_of(node)

    def op(self, operator: str, *inputs: str, **attributes: object) -> str:
        """Add a node; returns its output."""
        return self._graft.node(operator, list(inputs), self._name(), **attributes)

    def mul(self, first: str, second: str) -> str:
        """Add a product; returns its name."""
        return self.op("Mul", first, second)

    def where(self, condition: str, then: str, otherwise: str) -> str:
        """Add a choice number by number; returns its name."""
        return self.op("Where", condition, then, otherwise)

    def indicator(self, condition: str) -> str:
        """1 where a condition holds, 0 elsewhere."""
        return self.where(condition, self.number(1.0), self.number(0.0))

    def reduce(self, operator: str, source: str, axes: Sequence[int]) -> str:
        """Add a reduction over axes, which stay with size 1."""
        return self._graft.reduce(operator, source, axes, self._name())

    def number(self, value: object) -> str:
        """A constant of float32."""
        return self._constant(np.asarray(value, np.float32))

    def integers(self, *values: int) -> str:
        """A constant list of int64."""
        return self._constant(np.asarray(values, np.int64))

    def _constant(self, array: Array) -> str:
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        return self.once(key, lambda: self._graft.constant(self._name(), array, array.dtype))

    def once(self, key: tuple[object, ...], make: Callable[[], str]) -> str:
        """What `make` returned when the key came first: nothing is computed twice."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _name(self) -> str:
        self._count += 1
        return f"{PREFIX}{self._stem}.{self._count}"

    def reshape(self, name: str, sizes: Sequence[int]) -> str:
        """Add a reshape to sizes of which one, at most, depends on the batch."""
        target = [-1 if size and size % BATCH_SIZE == 0 else size for size in sizes]
        return self.op("Reshape", name, self.integers(*target))

    def expand(self, name: str, has: Sequence[int], sizes: Sequence[int]) -> str:
        """Repeat what has size 1 along the axes in which the sizes differ; none is the batch's."""
        if tuple(has) == tuple(sizes):
            return name
        # 1 leaves an axis as it is, so that the batch stays open.
        wanted = [1 if old == new else new for old, new in zip(has, sizes, strict=True)]
        return self.op("Expand", name, self.integers(*wanted))

    def narrow(self, name: str, sizes: Sequence[int], row: Row | None) -> str:
        """One row of something.

        Args:
            name: of all rows.
            row: which, or None for all.
        """
        if row is None:
            return name
        before, behind = list(sizes[: row.axis]), list(sizes[row.axis + 1 :])
        outer = sizes[row.axis] // (row.count * row.inner)
        apart = row.is_whole_axis(sizes)
        axis = row.axis if apart else row.axis + 1
        if not apart:
            name = self.reshape(name, [*before, outer, row.count, row.inner, *behind])
        bounds = (self.integers(each) for each in (row.index, row.index + 1, axis))
        name = self.op("Slice", name, *bounds)
        return name if apart else self.reshape(name, sizes_at(sizes, row))

    def value(
        self, name: str, row: Row | None = None, rank: int | None = None, *, cast: bool = True
    ) -> str:
        """A value of the network as a factor, in float32.

        Args:
            row: which row of what it is multiplied with, or None for all of it.
            rank: axes of that, to which the value is broadcast; its own where left out.
            cast: whether it has to be float32.
        """
        sizes = self.sizes_of(name)
        own = None if row is None else row.shifted(len(sizes) - (rank or len(sizes)))
        if own is not None and (own.axis < 0 or sizes[own.axis] == 1):
            # The same for all rows.
            own = None
        made = self.once(("row", name, own), lambda: self.narrow(name, sizes, own))
        if not cast or self._types.get(name) == TensorProto.FLOAT:
            return made
        return self.once(("cast", made), lambda: self.op("Cast", made, to=TensorProto.FLOAT))

    def sizes_of(self, name: str) -> Sizes:
        """Sizes with `BATCH_SIZE` for the batch.

        Raises:
            ObstacleError: they cannot be derived from the graph.
        """
        if name not in self.sizes:
            raise ObstacleError(f"the sizes of the value {name!r} do not follow from the graph")
        return self.sizes[name]

    def is_float(self, name: str) -> bool:
        """Whether a value is of a kind through which a gradient passes."""
        return self._types.get(name) in (
            *(TensorProto.FLOAT, TensorProto.FLOAT16),
            *(TensorProto.BFLOAT16, TensorProto.DOUBLE),
        )
