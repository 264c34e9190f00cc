"""What an output is made of: the input of an L2 normalisation, or the logits of scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from foldcam.export.onnx_graphs.values import PREPARED, rename, tensors_of
from foldcam.export.onnx_graphs.writing import NetworkNodes
from foldcam.runtime.contract.schema import EMBEDDING, ScoreKind

# Operators that hand on the direction of each row of their first input.
_TRANSPARENT = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout"}
_PASSED_ON = {"Clip", "Expand", "Abs", "Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape"}
# What guards a division by zero, and no more.
_TINY_BOUND = 1e-6
_POWERS = {"Sqrt": 0.5, "Reciprocal": -1.0}


def find_normalization(graph: onnx.GraphProto, output: str) -> str | None:
    """The tensor that is normalised just before `output`, by structure.

    Recognised are LpNormalization over one axis with p = 2, and `x / f(x)` or
    `x * f(x)` where `f` is the norm of `x`, or one over it, step by step.

    Args:
        output: name of the embedding.

    Returns:
        The name of the normalisation's input, or None where there is none.
    """
    search = _Search(graph)
    node = search.producers.get(output)
    while node is not None:
        source = node.input[0] if node.op_type in _TRANSPARENT else search.scaled_value(node)
        if source is None:
            break
        node = search.producers.get(source)
    if node is None:
        return None
    if node.op_type == "LpNormalization":
        order = next((a.i for a in node.attribute if a.name == "p"), 2)
        return str(node.input[0]) if order == 2 else None
    if node.op_type not in ("Div", "Mul"):
        return None
    first, second = (str(name) for name in node.input)
    pairs = [(first, second), (second, first)] if node.op_type == "Mul" else [(first, second)]
    for value, scale in pairs:
        if search.power_of_norm(scale, value) == (1.0 if node.op_type == "Div" else -1.0):
            return value
    return None


def has_unit_norm(graph: onnx.GraphProto, output: str) -> bool:
    """Whether an output `[N, D]` certainly has rows of norm 1 (or next to none).

    Recognised are LpNormalization and `x / norm(x)` as torch exports it, and nothing after
    them: a scale or a root mean square in between would be another length.
    """
    search = _Search(graph)
    node = search.producers.get(output)
    while node is not None and node.op_type == "Identity":
        node = search.producers.get(node.input[0])
    if node is None:
        return False
    if node.op_type == "LpNormalization":
        attributes = {a.name: a.i for a in node.attribute}
        return attributes.get("p", 2) == 2 and attributes.get("axis", -1) in (1, -1)
    return node.op_type == "Div" and search.is_norm(node.input[1], node.input[0])


def ends_in_layer_norm(graph: onnx.GraphProto, output: str) -> bool:
    """Whether an output is a layer normalisation's in one operator, or one token's of it."""
    producers = {name: node for node in graph.node for name in node.output}
    node = producers.get(output)
    while node is not None and node.op_type in _TRANSPARENT | {"Gather", "Slice"}:
        node = producers.get(node.input[0])
    return node is not None and node.op_type in ("LayerNormalization", "RMSNormalization")


def scales_of(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[str]:
    """The factors or divisors of a product that are, by their steps, a norm or one over it."""
    if node.op_type not in ("Mul", "Div"):
        return []
    search = _Search(graph)
    given = node.input[1:] if node.op_type == "Div" else node.input
    return [str(name) for name in given if search.is_root(str(name))]


class _Search:
    """The nodes and constants of a graph by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.producers = {name: node for node in graph.node for name in node.output}
        self._tensors = tensors_of(graph)

    def number(self, name: str) -> float | None:
        """The value of a constant with one element, else None."""
        tensor = self._tensors.get(name)
        if tensor is None or int(np.prod(tensor.dims)) != 1:
            return None
        return float(numpy_helper.to_array(tensor).item())

    def scaled_value(self, node: onnx.NodeProto) -> str | None:
        """`x` where the node is `x` times or over one positive constant, else None."""
        if node.op_type not in ("Mul", "Div"):
            return None
        first, second = node.input
        if (self.number(second) or 0) > 0:
            return str(first)
        if node.op_type == "Mul" and (self.number(first) or 0) > 0:
            return str(second)
        return None

    def power_of_norm(self, name: str, value: str) -> float | None:
        """`p` where the tensor is, by its steps, the L2 norm of `value` to the power `p`.

        A root of a mean of squares counts as well: it is the norm times a constant.
        """
        node = self.producers.get(name)
        if node is None or name == value:
            return None
        source = node.input[0] if node.input else ""
        if node.op_type in ("ReduceL2", "ReduceSumSquare"):
            return (1.0 if node.op_type == "ReduceL2" else 2.0) if source == value else None
        if node.op_type in ("ReduceSum", "ReduceMean"):
            return 2.0 if self._is_square(source, value) else None
        if node.op_type in _PASSED_ON:
            return self.power_of_norm(source, value)
        if node.op_type in ("Sqrt", "Reciprocal"):
            return _times(self.power_of_norm(source, value), _POWERS[node.op_type])
        if node.op_type == "Pow":
            return _times(self.power_of_norm(source, value), self.number(node.input[1]))
        if node.op_type == "Div" and (self.number(source) or 0) > 0:
            return _times(self.power_of_norm(node.input[1], value), -1.0)
        if node.op_type in ("Max", "Add", "Mul") and len(node.input) == 2:
            # The other one is a bound against division by zero, or a scale.
            for inner, bound in (node.input, reversed(node.input)):
                if (self.number(bound) or 0) > 0:
                    return self.power_of_norm(inner, value)
        return None

    def is_norm(self, name: str, value: str) -> bool:
        """Whether the tensor is the L2 norm of each row of `value`, bounded below by next to 0."""
        node = self.producers.get(name)
        if node is None:
            return False
        source = node.input[0]
        if node.op_type == "ReduceL2":
            return source == value and self._axes(node) in ([1], [-1])
        if node.op_type in ("Clip", "Max"):
            bound = self.number(node.input[1]) if len(node.input) == 2 else None
            return bound is not None and bound <= _TINY_BOUND and self.is_norm(source, value)
        if node.op_type in ("Expand", "Identity"):
            return self.is_norm(source, value)
        return False

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        """The axes of a reduction: an attribute before opset 18, a constant since."""
        if len(node.input) > 1:
            tensor = self._tensors.get(node.input[1])
            return [] if tensor is None else [int(n) for n in numpy_helper.to_array(tensor)]
        return next((list(a.ints) for a in node.attribute if a.name == "axes"), [])

    def is_root(self, name: str) -> bool:
        """Whether a value is a root or a norm, but for a bound, its inverse or another shape."""
        waiting = [name]
        while waiting:
            node = self.producers.get(waiting.pop())
            if node is None:
                continue
            if node.op_type in ("Sqrt", "ReduceL2"):
                return True
            if node.op_type == "Pow" and self.number(node.input[1]) in (0.5, -0.5):
                return True
            if node.op_type in _PASSED_ON | {"Reciprocal", "Max", "Add"}:
                waiting.extend(str(each) for each in node.input)
            elif node.op_type == "Div" and self.number(node.input[0]) is not None:
                waiting.append(str(node.input[1]))
        return False

    def _is_square(self, name: str, value: str) -> bool:
        node = self.producers.get(name)
        if node is None:
            return False
        if node.op_type == "Mul":
            return list(node.input) == [value, value]
        return node.op_type == "Pow" and node.input[0] == value and self.number(node.input[1]) == 2


def _times(power: float | None, factor: float | None) -> float | None:
    return None if power is None or factor is None else power * factor


_OPERATORS: dict[str, ScoreKind] = {
    "Softmax": "softmax",
    "LogSoftmax": "log-softmax",
    "Sigmoid": "sigmoid",
}
# Operators that hand on each number of their first input.
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
