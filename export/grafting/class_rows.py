"""The bank of a classifier: one row per class, from its own last layers. No images, no torch.

The score of a class is `l_c = W_c . h + b_c` with the rows of the last linear layer, so that the
direction of a class is `W_c` at that layer's input `h`. Where what lies between the sum over
positions and `h` is linear, its grad-weights are the same for every image and computed once,
here; elsewhere the graph pulls `W_c` back at each image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.grafting.own import OwnGradWeights
from foldcam.export.grafting.pull_back import obstacle_to_pull_back
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP, FEATURE_SUM, opset_of
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.export.onnx_graphs.values import Flow
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import IMAGE, GradWeightsRule, SummandKind
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]

_DIRECTION = f"{PREFIX}direction"
_TRANSPARENT = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout"}


@dataclass(frozen=True)
class ClassRows:
    """One row per class.

    Attributes:
        rows: `float32 [C, K']` grad-weights where `rule` is `transferred`; where it is `own`,
            directions `float32 [C, H]`, which the graph pulls back from `end` at each image.
        end: the name of the value that the directions belong to.
    """

    rows: Floats
    rule: GradWeightsRule
    end: str


def class_rows(
    model: onnx.ModelProto,
    logits: str,
    classes: int,
    summands: tuple[SummandKind, int],
    feature_map: tuple[int, int, int],
) -> ClassRows:
    """The rows of a classifier's classes.

    Args:
        model: in float32, as `opened` gives it; not changed.
    """
    kind, query = summands
    row = query if kind == "attention" else None
    source = FEATURE_MAP if kind == "none" else FEATURE_SUM
    found = _last_linear(model.graph, logits)
    # A flattened map's one linear layer is the sum itself, and its input lies before it.
    if found is None or obstacle_to_pull_back(model, source, found[0], row) is not None:
        found = logits, np.eye(classes, dtype=np.float32)
        obstacle = obstacle_to_pull_back(model, source, logits, row)
        if obstacle is not None:
            no_sum = (
                "its logits are no function of one sum over positions, as behind an average pool, "
                "a class token or a flattened map, and "
            )
            raise FoldcamError(
                f"The classifier cannot be folded: {no_sum if kind == 'none' else ''}the graph "
                f"cannot compute the gradient of its logits: {obstacle}."
            )
    end, directions = found
    scratch = onnx.ModelProto()
    scratch.CopyFrom(model)
    graft = Graft(scratch.graph, opset_of(scratch))
    size = directions.shape[1]
    own = OwnGradWeights(graft, end, kind, query, feature_map, size)
    pulled = own.at(_DIRECTION, "class")
    flow = Flow(scratch.graph)
    needed = sorted(flow.needed_for([pulled], [_DIRECTION]))
    if IMAGE in {name for number in needed for name in flow.inputs[number]}:
        return ClassRows(directions, "own", end)
    # Nothing of the image is read on the way: the same for all.
    nodes = [flow.nodes[number] for number in needed]
    del scratch.graph.node[:], scratch.graph.input[:], scratch.graph.output[:]
    scratch.graph.node.extend(nodes)
    given = helper.make_tensor_value_info(_DIRECTION, TensorProto.FLOAT, [None, 1, size])
    scratch.graph.input.append(given)
    scratch.graph.output.append(helper.make_tensor_value_info(pulled, TensorProto.FLOAT, None))
    (rows,) = GraphSession(scratch, [pulled]).run(directions[:, None])
    return ClassRows(np.ascontiguousarray(rows[:, 0], np.float32), "transferred", end)


def _last_linear(graph: onnx.GraphProto, logits: str) -> tuple[str, Floats] | None:
    """Input and rows `float32 [C, H]` of the linear layer that ends in the logits, if one does."""
    producers = {str(name): node for node in graph.node for name in node.output}
    constants = {str(tensor.name): tensor for tensor in graph.initializer}
    node = producers.get(logits)
    while node is not None and node.op_type in _TRANSPARENT | {"Add"}:
        moving = [name for name in node.input if name not in constants]
        if node.op_type == "Add" and len(moving) != 1:
            return None
        node = producers.get(moving[0] if node.op_type == "Add" else node.input[0])
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        return None
    if node.input[1] not in constants or node.input[0] in constants:
        return None
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    weights = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
    if weights.ndim != 2 or attributes.get("transA", 0):
        return None
    rows = weights if attributes.get("transB", 0) else weights.T
    return str(node.input[0]), np.ascontiguousarray(rows) * np.float32(attributes.get("alpha", 1.0))
