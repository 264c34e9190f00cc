"""What makes a classifier's scores of its logits: found in an ONNX graph, and added to one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.export.onnx_graphs.values import PREPARED, rename
from foldcam.export.onnx_graphs.writing import NetworkNodes
from foldcam.runtime.contract.schema import EMBEDDING, ScoreKind

_OPERATORS: dict[str, ScoreKind] = {
    "Softmax": "softmax",
    "LogSoftmax": "log-softmax",
    "Sigmoid": "sigmoid",
}
# Operators that hand on each number of their first input.
_TRANSPARENT = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout"}
_LOGITS = f"{PREPARED}logits"


def find_logits(graph: onnx.GraphProto, output: str) -> tuple[str, ScoreKind]:
    """The value that a softmax, log-softmax or sigmoid at the end of a graph is taken of.

    Args:
        output: name of the scores.

    Returns:
        The name of the logits, and what the scores are; the output itself where nothing is
        made of them.
    """
    producers = {str(name): node for node in graph.node for name in node.output}
    node = producers.get(output)
    while node is not None and node.op_type in _TRANSPARENT:
        node = producers.get(node.input[0])
    if node is not None and node.op_type in _OPERATORS:
        return str(node.input[0]), _OPERATORS[node.op_type]
    return output, "logits"


def add_scores(model: onnx.ModelProto, kind: ScoreKind) -> None:
    """Make scores of a network's logits, which are its output `embedding [N, C]` before."""
    if kind == "logits":
        return
    operator = next(name for name, made in _OPERATORS.items() if made == kind)
    outputs = [value for value in model.graph.output if value.name == EMBEDDING]
    rename(model.graph, {EMBEDDING: _LOGITS})
    # The output keeps its name, and is what is made of the logits from now on.
    outputs[0].name = EMBEDDING
    attributes = {} if kind == "sigmoid" else {"axis": 1}
    add = NetworkNodes(model.graph, f"{PREPARED}scores.", (EMBEDDING,))
    add.node(operator, [_LOGITS], EMBEDDING, **attributes)


def scores_of(logits: npt.NDArray[np.float32], kind: ScoreKind) -> npt.NDArray[np.float32]:
    """The same in numpy.

    Args:
        logits: `float32 [N, C]`.
        kind: what is made of them.
    """
    if kind == "logits":
        return logits
    exact = logits.astype(np.float64)
    if kind == "sigmoid":
        made = 0.5 * (1.0 + np.tanh(0.5 * exact))
    else:
        shifted = exact - exact.max(axis=1, keepdims=True)
        made = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        if kind == "softmax":
            made = np.exp(made)
    return np.asarray(made, np.float32)
