"""Sequences of tensors, taken out of a graph where it is known which element is meant.

Exporters write `chunk`, `split` and `unbind` as SplitToSequence and SequenceAt. TensorRT has
no sequences, and neither has what follows here: an element becomes a Slice of what was split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from foldcam.export.onnx_graphs.embedding_model import opset_of
from foldcam.export.onnx_graphs.session import Array, constant_of
from foldcam.export.onnx_graphs.values import PREPARED, inputs_of, place_of, prune, refill
from foldcam.runtime.system.errors import FoldcamError

_END = np.iinfo(np.int64).max
_NO_TENSORS = {
    "SplitToSequence", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase",
    "SequenceAt", "SequenceLength", "SequenceMap", "ConcatFromSequence", "Optional",
    "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip


@dataclass(frozen=True)
class _Sequence:
    """What is known of a sequence.

    Attributes:
        element: makes the nodes of the element at a position, called as its second argument.
            None where that element is not known.
        length: elements, None where it depends on a size.
    """

    element: Callable[[int, str], list[onnx.NodeProto] | None]
    length: int | None


def replace_sequences(model: onnx.ModelProto) -> None:
    """Replace sequences by the tensors in them."""
    if not any(node.op_type in _NO_TENSORS for node in model.graph.node):
        return
    replaced = _Replacement(model)
    refill(model.graph.node, [each for node in model.graph.node for each in replaced.of(node)])
    prune(model.graph)
    for node in model.graph.node:
        if node.op_type in _NO_TENSORS:
            raise FoldcamError(
                f"The network uses {node.op_type} (node {place_of(node)}), a sequence or an "
                "optional value whose elements the file does not fix: export it with tensors "
                "alone there (Split and Concat in place of sequences)."
            )


class _Replacement:
    """Replaces one node after the other, and remembers the sequences between them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph, self._opset = model.graph, opset_of(model)
        self._constants = {str(t.name): numpy_helper.to_array(t) for t in model.graph.initializer}
        self._known: dict[str, _Sequence] = {}

    def of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that take the place of one: itself, mostly."""
        if node.op_type == "Constant":
            value = constant_of(node)
            if value is not None:
                self._constants[str(node.output[0])] = value
            return [node]
        if any(name in self._known for name in inputs_of(node)) or node.op_type in _NO_TENSORS:
            made = self._replaced(node)
            if made is not None:
                return made
        return [node]

    def _replaced(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """The nodes, none where the node only makes a sequence; None where it has to stay."""
        output = str(node.output[0])
        made = self._sequence_of(node)
        if made is not None:
            # The node stays for what cannot be replaced; what nobody reads is pruned.
            self._known[output] = made
            return [node]
        source = self._known.get(str(node.input[0])) if node.input else None
        if source is None:
            return None
        if node.op_type == "SequenceAt":
            position = self._number(str(node.input[1]))
            return None if position is None else source.element(position, output)
        if node.op_type == "SequenceLength" and source.length is not None:
            length = self._constant(output, np.asarray(source.length, np.int64))
            return [helper.make_node("Identity", [length], [output], node.name)]
        if node.op_type == "ConcatFromSequence" and source.length:
            return self._joined(node, source, source.length, output)
        return None

    def _sequence_of(self, node: onnx.NodeProto) -> _Sequence | None:
        names = [str(name) for name in node.input]
        if node.op_type == "SequenceEmpty":
            return self._listed([])
        if node.op_type == "SequenceConstruct":
            return self._listed(names)
        source = self._known.get(names[0]) if names else None
        if node.op_type == "Identity":
            return source
        if node.op_type == "SequenceInsert" and source is not None and source.length is not None:
            place = self._number(names[2]) if len(names) > 2 and names[2] else source.length
            if place is not None:
                return self._with(source, source.length, place, names[1])
        if node.op_type == "SplitToSequence":
            return self._split(node, names)
        return None

    def _listed(self, names: list[str]) -> _Sequence:
        def element(position: int, output: str) -> list[onnx.NodeProto] | None:
            if not -len(names) <= position < len(names):
                return None
            return [helper.make_node("Identity", [names[position]], [output], output)]

        return _Sequence(element, len(names))

    def _with(self, source: _Sequence, length: int, place: int, name: str) -> _Sequence:
        place = place + length if place < 0 else place

        def element(position: int, output: str) -> list[onnx.NodeProto] | None:
            position = position + length + 1 if position < 0 else position
            if position == place:
                return [helper.make_node("Identity", [name], [output], output)]
            return source.element(position - (position > place), output)

        return _Sequence(element, length + 1)

    def _split(self, node: onnx.NodeProto, names: list[str]) -> _Sequence | None:
        attributes = {str(a.name): int(a.i) for a in node.attribute}
        axis, data = attributes.get("axis", 0), names[0]
        parts = names[1] if len(names) > 1 else ""
        keep = bool(attributes.get("keepdims", 1)) or bool(parts)
        sizes = self._constants.get(parts) if parts else np.asarray(1)
        if sizes is None or sizes.ndim > 1 or (sizes.ndim == 0 and int(sizes) < 1):
            return None
        bounds = np.cumsum([0, *sizes]) if sizes.ndim else None
        length = None if bounds is None else len(bounds) - 1

        def element(position: int, output: str) -> list[onnx.NodeProto] | None:
            if bounds is not None and length is not None:
                if not -length <= position < length:
                    return None
                position %= length
                start, end = int(bounds[position]), int(bounds[position + 1])
            elif position < 0 and int(sizes) > 1:
                # The last part is shorter where the size is no multiple.
                return None
            else:
                start, end = position * int(sizes), (position + 1) * int(sizes)
                end = end if end else _END
            if not keep:
                index = self._constant(f"{output}.index", np.asarray(position, np.int64))
                return [helper.make_node("Gather", [data, index], [output], output, axis=axis)]
            ends = [
                self._constant(f"{output}.{name}", np.asarray([value], np.int64))
                for name, value in (("start", start), ("end", end), ("axis", axis))
            ]
            return [helper.make_node("Slice", [data, *ends], [output], output)]

        return _Sequence(element, length)

    def _joined(
        self, node: onnx.NodeProto, source: _Sequence, length: int, output: str
    ) -> list[onnx.NodeProto] | None:
        attributes = {str(a.name): int(a.i) for a in node.attribute}
        axis, stacked = attributes["axis"], bool(attributes.get("new_axis", 0))
        nodes, names = [], []
        for position in range(length):
            name = f"{PREPARED}sequence.{output}.{position}"
            made = source.element(position, name)
            if made is None:
                return None
            nodes += made
            if stacked:
                flat, name = name, f"{name}.stacked"
                if self._opset < 13:
                    nodes.append(helper.make_node("Unsqueeze", [flat], [name], name, axes=[axis]))
                else:
                    axes = self._constant(f"{name}.axes", np.asarray([axis], np.int64))
                    nodes.append(helper.make_node("Unsqueeze", [flat, axes], [name], name))
            names.append(name)
        return [*nodes, helper.make_node("Concat", names, [output], node.name, axis=axis)]

    def _number(self, name: str) -> int | None:
        value = self._constants.get(name)
        return int(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def _constant(self, name: str, value: Array) -> str:
        full = f"{PREPARED}sequence.{name}"
        self._graph.initializer.append(numpy_helper.from_array(value, full))
        return full
