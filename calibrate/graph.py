"""What calibration asks of a graph: its constants, its producers, names that are free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.onnx_graphs.values import names_read, tensors_of
from foldcam.export.onnx_graphs.writing import PREFIX

Floats = npt.NDArray[np.float32]
Values = Mapping[str, npt.NDArray[Any]]
Batches = Sequence[Values]
"""Values of a graph by name, for each batch of images."""


class GraphView:
    """Look-ups in a graph, which is not changed.

    Attributes:
        producers: value -> the node that makes it.
        places: value -> the position of that node.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.producers = {name: node for node in self.graph.node for name in node.output}
        self.places = {
            name: place for place, node in enumerate(self.graph.node) for name in node.output
        }
        self._constants = tensors_of(model.graph)

    def is_constant(self, name: str) -> bool:
        """Whether a value is an initializer or the output of a Constant node."""
        return name in self._constants

    def floats(self, name: str) -> Floats | None:
        """A float32 constant; None for any other value."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return None
        return np.asarray(numpy_helper.to_array(tensor), np.float32)


def is_grafted(node: onnx.NodeProto) -> bool:
    """Whether foldcam put the node there: bank, transfer, heatmap, or the image's cast."""
    return bool(node.name.startswith(PREFIX))


def name_of(node: onnx.NodeProto) -> str:
    """What a node is called in reports: its name, or its first output's."""
    return str(node.name or node.output[0])


def with_outputs(
    model: onnx.ModelProto, names: Sequence[str], known: Batches = ()
) -> onnx.ModelProto:
    """A copy whose outputs are the named values and nothing else.

    Nodes that serve none of them are left out, so that a run pays only for what is asked.

    Args:
        known: some values of the graph, for each batch: they become inputs, what leads to them is
            left out, and those among `names` are no outputs. A size that differs between batches
            is left open.
    """
    given = set(known[0]) if known else set()
    graph = model.graph
    wanted = [name for name in names if name not in given]
    needed, kept = set(wanted), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= names_read([node]) - given
    read = names_read(kept) | needed
    copy = onnx.ModelProto(ir_version=model.ir_version, functions=model.functions)
    copy.opset_import.extend(model.opset_import)
    copy.graph.name = graph.name or "part"
    copy.graph.node.extend(reversed(kept))
    copy.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    copy.graph.input.extend(v for v in graph.input if v.name in read and v.name not in given)
    copy.graph.input.extend(_described(name, known) for name in sorted(given & read))
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    return copy


def _described(name: str, known: Batches) -> onnx.ValueInfoProto:
    shapes = [values[name].shape for values in known]
    sizes = [each[0] if len(set(each)) == 1 else None for each in zip(*shapes, strict=True)]
    kind = helper.np_dtype_to_tensor_dtype(known[0][name].dtype)
    return helper.make_tensor_value_info(name, kind, sizes)
