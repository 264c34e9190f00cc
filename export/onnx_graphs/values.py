"""An ONNX graph by its values: who makes and reads them, what they depend on, renaming them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import onnx
from onnx import helper

# Their output says how large their input is, not what is in it.
_SIZES = {"Shape", "Size"}
PREPARED = "network.prepared."
"""Before the names of what foldcam adds to a network to make it fit for folding; what the
fold itself adds has another prefix and can be taken out again."""

RANDOM = {
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial",
    "Bernoulli",
}  # fmt: skip


def refill(field: Any, items: Iterable[Any]) -> None:
    """Put elements into a repeated field of a message, in the place of those it has."""
    kept = list(items)
    del field[:]
    field.extend(kept)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name, as Python values."""
    return {str(each.name): helper.get_attribute_value(each) for each in node.attribute}


def tensors_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The constants of a graph that are tensors: its initializers, and those of Constant nodes."""
    tensors = {str(tensor.name): tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            tensors.update((str(node.output[0]), a.t) for a in node.attribute if a.name == "value")
    return tensors


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs in its nodes' attributes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


def inputs_of(node: onnx.NodeProto) -> list[str]:
    """The values a node reads, those of its branches and loop bodies included."""
    names = [str(name) for name in node.input if name]
    for attribute in node.attribute:
        inner = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        for graph in inner:
            names.extend(name for name in _read_from_outside(graph) if name not in names)
    return names


def _read_from_outside(graph: onnx.GraphProto) -> list[str]:
    own = {str(tensor.name) for tensor in graph.initializer}
    own |= {str(value.name) for value in graph.input}
    names: list[str] = []
    for node in graph.node:
        names.extend(name for name in inputs_of(node) if name not in own and name not in names)
        own.update(str(name) for name in node.output)
    names.extend(str(value.name) for value in graph.output if value.name not in own)
    return names


def place_of(node: onnx.NodeProto) -> str:
    """How a message names a node: its name, or else its output's."""
    return repr(node.name or next((name for name in node.output if name), ""))


class Flow:
    """What depends on what in a graph, which is in topological order.

    A value is `fixed` where it depends on constants alone, a `size` where it depends on
    the image through shapes alone, else it holds something of the image.

    Args:
        graph: the graph; changes to it afterwards are not seen.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = list(graph.node)
        self.inputs: list[list[str]] = [inputs_of(node) for node in self.nodes]
        self.producer: dict[str, int] = {}
        self.fixed = {str(tensor.name) for tensor in graph.initializer}
        self.sizes: set[str] = set()
        for number, node in enumerate(self.nodes):
            outputs = [str(name) for name in node.output if name]
            self.producer.update(dict.fromkeys(outputs, number))
            if node.op_type in RANDOM:
                continue
            if all(name in self.fixed for name in self.inputs[number]):
                self.fixed.update(outputs)
            elif node.op_type in _SIZES or all(
                name in self.fixed or name in self.sizes for name in self.inputs[number]
            ):
                self.sizes.update(outputs)

    def holds_image(self, name: str) -> bool:
        """Whether a value depends on the image's pixels."""
        return name not in self.fixed and name not in self.sizes

    def needed_for(self, ends: Iterable[str], given: Collection[str] = ()) -> set[int]:
        """Numbers of the nodes that compute `ends` from `given` and the graph's inputs."""
        found: set[int] = set()
        waiting = [name for name in ends if name not in given]
        while waiting:
            number = self.producer.get(waiting.pop())
            if number is not None and number not in found:
                found.add(number)
                waiting.extend(name for name in self.inputs[number] if name not in given)
        return found

    def after(self, start: str) -> set[int]:
        """Numbers of the nodes whose values depend on what is in `start`."""
        reached = {start}
        found: set[int] = set()
        for number, node in enumerate(self.nodes):
            if node.op_type not in _SIZES and any(n in reached for n in self.inputs[number]):
                found.add(number)
                reached.update(str(name) for name in node.output if name)
        return found


def rename(
    graph: onnx.GraphProto, names: Mapping[str, str], reserved: Collection[str] = ()
) -> None:
    """Give values other names; what has one of the new names already gets out of the way.

    Args:
        graph: changed in place.
        names: old -> new.
        reserved: further names that nothing may keep.
    """
    every = _value_names(graph)
    wanted = {*names.values(), *reserved}
    taken = every | wanted
    full = dict(names)
    for name in sorted(wanted & every - set(names)):
        free = f"network.{name}"
        while free in taken:
            free = f"network.{free}"
        taken.add(free)
        full[name] = free
    for inner in graphs(graph):
        for value in [*inner.input, *inner.output, *inner.value_info, *inner.initializer]:
            value.name = full.get(value.name, value.name)
        for node in inner.node:
            for values in (node.input, node.output):
                for position, name in enumerate(values):
                    values[position] = full.get(name, name)


def prune(graph: onnx.GraphProto) -> None:
    """Drop the nodes and weights that no output needs."""
    flow = Flow(graph)
    ends = [str(value.name) for value in graph.output]
    needed = sorted(flow.needed_for(ends))
    kept = [flow.nodes[number] for number in needed]
    used = {name for number in needed for name in flow.inputs[number]} | set(ends)
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)


def _value_names(graph: onnx.GraphProto) -> set[str]:
    names: set[str] = set()
    for inner in graphs(graph):
        names.update(str(each.name) for each in [*inner.input, *inner.output, *inner.initializer])
        names.update(str(name) for node in inner.node for name in [*node.input, *node.output])
    return names - {""}


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return graphs + [graph for attribute in node.attribute for graph in attribute.graphs]


def names_read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Every name that the nodes or their subgraphs read."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for graph in subgraphs(node):
            names.update(value.name for value in graph.output)
            names |= names_read(graph.node)
    return names


def drop_unused_constants(graph: onnx.GraphProto, among: Iterable[str] | None = None) -> None:
    """Remove initializers and Constant nodes that nothing reads.

    Args:
        graph: changed.
        among: names that may go, or None for all.
    """
    used = names_read(graph.node) | {value.name for value in graph.output}
    may_go = None if among is None else set(among)

    def unused(name: str) -> bool:
        return name not in used and (may_go is None or name in may_go)

    dropped = {tensor.name for tensor in graph.initializer if unused(tensor.name)}
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name in dropped:
            del graph.initializer[position]
    # Old files declare their constants as inputs, too.
    for position in reversed(range(len(graph.input))):
        if graph.input[position].name in dropped:
            del graph.input[position]
    for position in reversed(range(len(graph.node))):
        node = graph.node[position]
        if node.op_type == "Constant" and unused(node.output[0]):
            del graph.node[position]
