"""What calibration asks of a graph: its constants, its producers, names that are free."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.onnx_graphs.writing import PREFIX

Floats = npt.NDArray[np.float32]


class GraphView:
    """Look-ups in a graph, which is not changed.

    Args:
        model: a folded model.

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
        self._constants = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self._constants[node.output[0]] = node.attribute[0].t

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


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy whose outputs are the named float32 values and nothing else.

    Nodes that serve none of them are left out, so that a run pays only for what is asked.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    wanted, kept = set(names), []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    return copy


def _reads(node: onnx.NodeProto) -> set[str]:
    from foldcam.export.onnx_graphs.names import names_read

    return names_read([node])
