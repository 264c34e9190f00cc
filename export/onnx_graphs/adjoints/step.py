"""One node of a graph as the rules of a vector-Jacobian product see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx

from foldcam.export.onnx_graphs.adjoints.tape import ObstacleError, Row, Sizes, Tape, reshaped
from foldcam.export.onnx_graphs.values import attributes_of, place_of


class Step:
    """One node between source and end.

    Args:
        tape: knows its values.

    Attributes:
        inputs, outputs: names, "" for what is left out.
    """

    def __init__(self, tape: Tape, node: onnx.NodeProto) -> None:
        self.tape = tape
        self.node = node
        self.inputs = [str(name) for name in node.input]
        self.outputs = [str(name) for name in node.output]
        self._attributes = attributes_of(node)

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self._attributes.get(name, default))

    def float(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self._attributes.get(name, default))

    def numbers(self, name: str) -> list[int]:
        """An attribute that is a list of integers; none where it is left out."""
        return [int(each) for each in self._attributes.get(name, ())]

    def integers(self, name: str, position: int) -> list[int] | None:
        """A list that is an attribute in older operator sets and an input since.

        Raises:
            ObstacleError: the input is computed.
        """
        if position < len(self.inputs) and self.inputs[position]:
            value = self.tape.constant(self.inputs[position])
            if value is None:
                raise self.obstacle(f"whose {name} are computed")
            return [int(each) for each in value.reshape(-1)]
        return self.numbers(name) if name in self._attributes else None

    def sizes(self, position: int = 0) -> Sizes:
        """Of an input."""
        return self.tape.sizes_of(self.inputs[position])

    def made(self, position: int = 0) -> Sizes:
        """Sizes of an output."""
        return self.tape.sizes_of(self.outputs[position])

    def row(self, position: int = 0) -> Row | None:
        """Of an input that depends on the source."""
        return self.tape.rows[self.inputs[position]]

    def out_row(self, position: int = 0) -> Row | None:
        """Of an output that depends on the source."""
        return self.tape.rows[self.outputs[position]]

    def depending(self) -> list[int]:
        """Positions of the inputs that depend on the source."""
        return [at for at, name in enumerate(self.inputs) if name in self.tape.rows]

    def obstacle(self, why: str) -> ObstacleError:
        """What to raise about this node: `why` completes `Slice (node 'n'), ...`."""
        return ObstacleError(f"{self.node.op_type} (node {place_of(self.node)}), {why}")

    def moved(self, row: Row | None, before: Sequence[int], after: Sequence[int]) -> Row | None:
        """Where a row lies after a reshape.

        Raises:
            ObstacleError: its axis is torn apart.
        """
        if row is None:
            return None
        found = reshaped(row, before, after)
        if found is None or prod(before) != prod(after):
            raise self.obstacle("which tears the axis of tokens apart")
        return found


Reach = Mapping[int, Row | None]
"""Output position -> which row of the output depends on the source; what is left out does not."""


@dataclass(frozen=True)
class Rule:
    """How a gradient passes an operator.

    Attributes:
        reach: which outputs depend on the source, from the rows of the inputs.
        pull: `(step, input position, output position, adjoint)` -> what the output adds to the
            input's adjoint. An adjoint is float32 and holds the row that depends on the source.
    """

    reach: Callable[[Step], Reach]
    pull: Callable[[Step, int, int, str], str]
