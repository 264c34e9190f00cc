"""Writing nodes and constants into an ONNX graph, under names of foldcam's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from foldcam.export.onnx_graphs.values import refill

PREFIX = "foldcam."


class NetworkNodes:
    """Adds nodes and constants that belong to an embedding network from now on.

    Args:
        prefix: of their names.
        ends: values whose names are kept as they are.
    """

    def __init__(self, graph: onnx.GraphProto, prefix: str, ends: Collection[str]) -> None:
        self._graph, self._prefix, self._ends = graph, prefix, ends

    def integers(self, name: str, value: Sequence[int]) -> str:
        """Add integers; returns their name."""
        full = self._prefix + name
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.int64), full))
        return full

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node; returns its output's name."""
        full = output if output in self._ends else self._prefix + output
        name = self._prefix + output
        self._graph.node.append(helper.make_node(op, inputs, [full], name, **attributes))
        return full

    def copy(self, node: onnx.NodeProto, inputs: Sequence[str], output: str) -> str:
        """Add a node like another one with other inputs; returns its output's name."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.name = self._prefix + output
        refill(made.input, inputs)
        refill(made.output, [made.name])
        self._graph.node.append(made)
        return str(made.name)

    def slice(self, source: str, output: str, axis: int, start: int, end: int) -> str:
        """Add a slice of one axis; returns its name."""
        bounds = [
            self.integers(f"{output}_{name}", [value])
            for name, value in (("start", start), ("end", end), ("axis", axis))
        ]
        return self.node("Slice", [source, *bounds], output)


class Graft:
    """Adds nodes and constants, all named under `foldcam.`, to a graph.

    Attributes:
        graph: what they are added to.
        opset: the version of ONNX's operators that they are written in.
    """

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.graph = graph
        self.opset = opset

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """Add an initializer; returns its name."""
        full = name if name.startswith(PREFIX) else PREFIX + name
        self.graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype)), full)
        )
        return full

    def has_constant(self, name: str) -> bool:
        """Whether there is an initializer of that name."""
        return any(tensor.name == name for tensor in self.graph.initializer)

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        self.nodes(op, inputs, [output], **attributes)
        return output

    def reshape(self, source: str, shape: Sequence[int], output: str) -> str:
        """Add a reshape, 0 keeping a size; returns the output's name."""
        wanted = self.constant(f"{output.removeprefix(PREFIX)}_shape", shape, np.int64)
        return self.node("Reshape", [source, wanted], output)

    def reduce(self, op: str, source: str, axis: int | Sequence[int], output: str) -> str:
        """Add a reduction over axes, which stay with size 1; returns the output's name."""
        over = [axis] if isinstance(axis, int) else list(axis)
        # The sum has had its axes as an input since opset 13, the others since 18.
        if self.opset < 18 and op != "ReduceSum":
            return self.node(op, [source], output, axes=over, keepdims=1)
        axes = self.constant(f"{output.removeprefix(PREFIX)}_axes", over, np.int64)
        return self.node(op, [source, axes], output, keepdims=1)

    def nodes(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node with several outputs."""
        name = PREFIX + outputs[0].removeprefix(PREFIX)
        self.graph.node.append(helper.make_node(op, inputs, outputs, name=name, **attributes))

    def first_columns(self, name: str, count: int, output: str) -> str:
        """Add a slice of the first `count` columns; returns the output's name."""
        stem = output.removeprefix(PREFIX)
        start = self.constant(f"{stem}_start", [0], np.int64)
        end = self.constant(f"{stem}_end", [count], np.int64)
        axis = self.constant(f"{stem}_axis", [1], np.int64)
        return self.node("Slice", [name, start, end, axis], output)
