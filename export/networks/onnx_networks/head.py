"""The head of an ONNX network as a torch function of its feature map."""

from __future__ import annotations

import onnx
import torch
from onnx import numpy_helper

from foldcam.export.networks.onnx_networks.prepare import Prepared
from foldcam.export.networks.onnx_networks.rewrite import Shape
from foldcam.export.networks.onnx_torch.arrangement import to_torch
from foldcam.export.networks.onnx_torch.call import UnsupportedError
from foldcam.export.networks.onnx_torch.interpreter import Interpreter
from foldcam.export.onnx_graphs.normalization import scales_of
from foldcam.export.onnx_graphs.values import Flow, place_of
from foldcam.runtime.system.errors import FoldcamError


class OnnxHead:
    """Feature map and context -> the head's end and the embedding.

    Attributes:
        context: names of the values that the head needs beside its layer.
    """

    def __init__(self, prepared: Prepared, layer: str, head_end: str) -> None:
        self._layer, self._shapes = layer, prepared.shapes
        self._ends = (head_end, prepared.embedding)
        self._interpreter = Interpreter(prepared.model, hold=True)
        flow = Flow(prepared.model.graph)
        head = flow.after(layer) & flow.needed_for(self._ends, [layer])
        read = [name for number in sorted(head) for name in flow.inputs[number]]
        read += [name for name in self._ends if name not in read]
        made = {str(name) for number in head for name in flow.nodes[number].output}
        self.context: list[str] = []
        for name in read:
            outside = name not in made and name != layer and flow.holds_image(name)
            if outside and name not in self.context:
                self.context.append(name)
        beside = _sizes_for(read, flow)
        fixed = {number for number in beside if _is_fixed(flow, number)}
        needed = {name for number in head | beside for name in flow.inputs[number]}
        self._nodes = [flow.nodes[number] for number in sorted((head | beside) - fixed)]
        self._constants = {
            str(tensor.name): to_torch(numpy_helper.to_array(tensor))
            for tensor in prepared.model.graph.initializer
            if tensor.name in needed or tensor.name in self._ends
        }
        self._held = {
            str(node.output[0]): held
            for node in self._nodes
            if (held := _held_scales(prepared, node))
        }
        with torch.no_grad():
            self._interpreter.run([flow.nodes[number] for number in sorted(fixed)], self._constants)

    def __call__(
        self, layer: torch.Tensor, *context: torch.Tensor | int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the head.

        Args:
            layer: the value itself, `[N, ...]`.

        Returns:
            `z [N, ...]` and the embedding `[N, D]`.
        """
        values = {**self._constants, self._layer: layer}
        for name, value in zip(self.context, context, strict=True):
            values[name] = torch.as_tensor(value)
        shape = self._shapes[self._layer]
        axis = shape.axis or 0
        count = layer.shape[axis] * shape.unit // shape.sizes[axis]
        for node in self._nodes:
            if node.op_type in ("Shape", "Size") and node.input[0] in self._shapes:
                values[str(node.output[0])] = _sizes(node, self._shapes[node.input[0]].at(count))
                continue
            held = self._held.get(str(node.output[0]), ())
            kept = {name: values[name] for name in held}
            values.update({name: value.detach() for name, value in kept.items()})
            try:
                self._interpreter.run([node], values)
            except UnsupportedError as error:
                raise FoldcamError(
                    f"The head cannot be differentiated: {node.op_type} (node {place_of(node)}), "
                    f"{error}; use --head fitted."
                ) from error
            values.update(kept)
        z, embedding = (values[name] for name in self._ends)
        return z, embedding.reshape(count, -1)


def _held_scales(prepared: Prepared, node: onnx.NodeProto) -> list[str]:
    """The norms that a product scales its rows by, see `torch_cut.hold_scales`."""
    whole = prepared.shapes.get(str(node.output[0]))
    held = []
    for name in scales_of(prepared.model.graph, node):
        shape = prepared.shapes.get(name)
        if whole is not None and shape is not None and _is_per_row(prepared, name, shape, whole):
            held.append(name)
    return held


def _is_per_row(prepared: Prepared, name: str, shape: Shape, whole: Shape) -> bool:
    """Whether a factor is one number for many, and not a value of its own at every place."""
    expanded = any(
        node.op_type == "Expand" and name in node.output for node in prepared.model.graph.node
    )
    return expanded or shape.sizes != whole.sizes


def _sizes_for(read: list[str], flow: Flow) -> set[int]:
    """The nodes that compute shapes and constants for what a head reads."""
    found: set[int] = set()
    waiting = [name for name in read if not flow.holds_image(name)]
    while waiting:
        number = flow.producer.get(waiting.pop())
        if number is not None and number not in found:
            found.add(number)
            # A shape is known without the value it is the shape of.
            waiting.extend(name for name in flow.inputs[number] if not flow.holds_image(name))
    return found


def _is_fixed(flow: Flow, number: int) -> bool:
    return all(name in flow.fixed for name in flow.nodes[number].output if name)


def _sizes(node: onnx.NodeProto, shape: tuple[int, ...]) -> torch.Tensor:
    if node.op_type == "Size":
        return torch.tensor(shape, dtype=torch.int64).prod()
    bounds = {str(attribute.name): int(attribute.i) for attribute in node.attribute}
    return torch.tensor(shape[bounds.get("start", 0) : bounds.get("end")], dtype=torch.int64)
