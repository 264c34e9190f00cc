"""How a rule finds its places in a model: a few general matchers, and tests of single places.

What a matcher yields fills the braces in the rule's sentence and advice, beside `{node}`, `{view}`
and `{target}`, whose attributes may be named: `{node.op}`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.export.verification.check.targets import Target, first_version
from foldcam.export.verification.check.view import ModelView, Node, type_name
from foldcam.runtime.contract.schema import METADATA_KEY

Array = npt.NDArray[Any]
MOST_TOPK = 3840
# A window in one or two dimensions must be smaller than that.
POOL_WINDOW = 100_000
# The rule "integer-operator" says more about them than that they are unknown.
_INTEGER_OPERATORS = (
    "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger",
)  # fmt: skip
_READ_UINT8 = ("Cast", "Shape", "Size", "DequantizeLinear")
_AFTER_CONVOLUTION = ("BatchNormalization", "Relu", "Clip", "Identity")
# What TensorRT gives to DLA by itself, the column "Orin DLA support through TensorRT" of
# https://github.com/NVIDIA/Deep-Learning-Accelerator-SW/blob/main/operators/README.md.
_DLA = (
    "Abs Add AveragePool BatchNormalization Clip Concat Constant Conv ConvTranspose Equal Gemm "
    "LeakyRelu LRN MatMul Max MaxPool Mul PRelu Relu Reshape Resize Sigmoid Slice Softmax Split "
    "Sub Sum Tanh Transpose Upsample"
)
# Folded away while the engine is built.
_DLA_FREE = ("Constant", "ConstantOfShape", "Shape", "Identity", "Dropout")
WHOLE = Node("", "", "", (), (), {})


@dataclass(frozen=True)
class Place:
    """A node of a model, or the model as a whole, where `node` is `WHOLE`, before a target."""

    view: ModelView
    target: Target
    node: Node

    def dtype(self, index: int) -> str:
        """Type of an input of the node; empty where it is unknown."""
        return self.view.dtype(self.node.input(index))

    def array(self, index: int) -> Array | None:
        """Value of an input of the node that is a constant; None where it is none."""
        return self.view.array(self.node.input(index))


Details = dict[str, object]
# What is found at a place: details, True for none in particular, or False and None for nothing.
Test = Callable[[Place], "Details | bool | None"]
Matcher = Callable[[ModelView, Target], Iterator[tuple[Node, Details]]]


def places(on: str, where: Test) -> Matcher:
    """Match the places `on`, as rules.toml names them, for which `where` finds something."""

    def find(view: ModelView, target: Target) -> Iterator[tuple[Node, Details]]:
        looked_at: Iterable[Node] = view.of(*on.split())
        if on == "the model":
            looked_at = [WHOLE]
        elif on == "other domains":
            looked_at = [node for node in view.nodes if not node.standard]
        for node in looked_at:
            found = where(Place(view, target, node))
            if found is not None and found is not False:
                yield node, {} if found is True else found

    return find


def types(*names: str) -> Matcher:
    """Match where values of these types enter: as input, constant or result. `{type}`, `{value}`"""

    def find(view: ModelView, _: Target) -> Iterator[tuple[Node, Details]]:
        for value in view.inputs:
            if view.dtype(value.name) in names:
                yield WHOLE, {"type": view.dtype(value.name), "value": value.name}
        for name, kind, readers in view.constants_of(*names):
            if readers:
                yield readers[0], {"type": kind, "value": name}
        for node in view.nodes:
            first = next((name for name in node.outputs if view.dtype(name) in names), "")
            passed_on = any(view.dtype(name) in names for name in node.inputs)
            if first and first not in view.constants and not passed_on:
                yield node, {"type": view.dtype(first), "value": first}

    return find


def constants(*names: str) -> Matcher:
    """Match readers of a constant of these types other than Q and DQ. `{type}`, `{value}`"""

    def find(view: ModelView, _: Target) -> Iterator[tuple[Node, Details]]:
        for name, kind, readers in view.constants_of(*names):
            for node in readers:
                if node.op not in ("QuantizeLinear", "DequantizeLinear"):
                    yield node, {"type": kind, "value": name}

    return find


def always(_: Place) -> bool:
    """A test that finds something at every place."""
    return True


def attribute(name: str, default: object, allowed: Sequence[object]) -> Test:
    """Test for an attribute, or an entry of it, with a value that is not allowed: `{found}`."""

    def test(at: Place) -> Details | None:
        found = at.node.attributes.get(name, default)
        entries = found if isinstance(found, (list, tuple)) else [found]
        return None if all(entry in allowed for entry in entries) else {"found": found}

    return test


# Tests and matchers of single rules


def opset_too_new(at: Place) -> bool:
    """A model of an opset above what the target's parser reads."""
    return at.view.opset > at.target.newest_opset


def opset_too_old(at: Place) -> bool:
    """A model of an opset below what the target's parser reads."""
    return at.view.opset < at.target.oldest_opset


def unknown_name(at: Place) -> bool:
    """An operator, of whatever domain, whose name the target's parser does not know."""
    return not at.target.knows(at.node.op)


def known_name(at: Place) -> bool:
    """An operator, of whatever domain, whose name the target's parser knows."""
    return bool(at.target.knows(at.node.op))


def unknown_operator(at: Place) -> Details | None:
    """An operator that the target's parser does not know: `{since}`."""
    if at.target.knows(at.node.op) is not False or at.node.op in _INTEGER_OPERATORS:
        return None
    first = first_version(at.node.op)
    later = first is not None and first > at.target.version
    return {"since": f"TensorRT {first[0]}.{first[1]} has it" if first and later else "none has it"}


def undated_operator(at: Place) -> Details | None:
    """An operator that came between two published tables: `{first}`."""
    first = first_version(at.node.op)
    undated = at.target.knows(at.node.op) is None
    return {"first": f"{first[0]}.{first[1]}"} if first and undated else None


def newer_form(at: Place) -> Details | None:
    """A standard operator in a form that the model's opset does not have: `{what}`."""
    known = 1 <= at.view.opset <= onnx.defs.onnx_opset_version()
    # An operator that ONNX does not list at all is an old experimental one.
    if not known or not onnx.defs.has(at.node.op):
        return None
    try:
        schema = onnx.defs.get_schema(at.node.op, at.view.opset)
    except onnx.defs.SchemaError:
        return {"what": "the operator itself"}
    if schema.deprecated:
        return None
    for name in sorted(set(at.node.attributes) - set(schema.attributes)):
        return {"what": f"the attribute {name!r}"}
    most = schema.max_input
    return {"what": f"the input number {most + 1}"} if len(at.node.inputs) > most else None


def undefined_input(view: ModelView, _: Target) -> Iterator[tuple[Node, Details]]:
    """Match nodes that read what nothing makes: `{value}`."""
    if any(view.of("If", "Loop", "Scan")):
        return  # the inputs of subgraphs are not collected
    made = {*view.constants, *view.producers, *(value.name for value in view.model.graph.input)}
    made |= {tensor.values.name for tensor in view.model.graph.sparse_initializer}
    for node in view.nodes:
        missing = next((name for name in node.inputs if name and name not in made), None)
        if missing is not None:
            yield node, {"value": missing}


def not_tensors(view: ModelView, _: Target) -> Iterator[tuple[Node, Details]]:
    """Match inputs and outputs that are sequences, optional or sparse: `{value}`."""
    for value in (*view.inputs, *view.outputs):
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            yield WHOLE, {"value": value.name}


def local_functions(at: Place) -> Details | None:
    """A model with functions of its own: `{functions}`."""
    names = [function.name for function in at.view.model.functions]
    return {"functions": ", ".join(names[:5])} if names else None


def external_data(at: Place) -> Details | None:
    """A model with constants in other files: `{files}`, `{count}`."""
    places = [
        next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        for tensor in at.view.constants.values()
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    files = ", ".join(list(dict.fromkeys(places))[:3])
    return {"files": files, "count": len(places)} if places else None


def open_sizes(view: ModelView, _: Target) -> Iterator[tuple[Node, Details]]:
    """Match inputs with an open size beside the batch: `{value}`, `{shape}`."""
    for value in view.inputs:
        shape = view.shape(value.name) or ()
        if None in shape[1:]:
            text = ", ".join("?" if size is None else str(size) for size in shape)
            yield WHOLE, {"value": value.name, "shape": text}


def not_folded(at: Place) -> bool:
    """A model without foldcam's metadata."""
    return all(entry.key != METADATA_KEY for entry in at.view.model.metadata_props)


def on_dla(at: Place) -> Details | None:
    """A model for boards with DLA: `{able}`, `{nodes}`, `{rest}`."""
    every = [node for node in at.view.nodes if node.op not in _DLA_FREE]
    if not at.target.dla or not every:
        return None
    rest = Counter(node.op for node in every if not node.standard or node.op not in _DLA.split())
    listed = ", ".join(f"{op} ({count})" for op, count in sorted(rest.items())) or "none"
    return {"able": len(every) - rest.total(), "nodes": len(every), "rest": listed}


def computed_axes(at: Place) -> bool:
    """An operator whose axes, the second input, are not a constant of the file."""
    return bool(at.node.input(1)) and not at.view.is_constant(at.node.input(1))


def _k(at: Place) -> int:
    values = at.array(1)
    stored = values is not None and values.size == 1
    return int(values.item() if stored and values is not None else at.node.attributes.get("k", 0))


def topk_too_many(at: Place) -> Details | None:
    """TopK with `k` above the limit: `{k}`, `{most}`."""
    return {"k": _k(at), "most": MOST_TOPK} if _k(at) > MOST_TOPK else None


def topk_beyond_size(at: Place) -> Details | None:
    """TopK that asks for more than there is: `{k}`, `{size}`."""
    shape = at.view.shape(at.node.input(0)) or ()
    axis = int(at.node.attributes.get("axis", -1))
    size = shape[axis] if -len(shape) <= axis < len(shape) else None
    return {"k": _k(at), "size": size} if size and 0 < size < _k(at) else None


def large_window(at: Place) -> Details | None:
    """A pool with a window above the limit: `{window}`, `{most}`."""
    window = [int(size) for size in at.node.attributes.get("kernel_shape", [])]
    if len(window) > 2 or math.prod(window) < POOL_WINDOW:
        return None
    return {"window": " x ".join(map(str, window)), "most": POOL_WINDOW - 1}


def several_outputs(at: Place) -> Details | None:
    """An operator of which more than one output is used: `{outputs}`."""
    used = sum(bool(name) for name in at.node.outputs)
    return {"outputs": used} if used > 1 else None


def mixed_operands(at: Place) -> Details | None:
    """An operator whose operands, the condition of Where aside, differ in type: `{types}`."""
    names = at.node.inputs[1:] if at.node.op == "Where" else at.node.inputs
    kinds = dict.fromkeys(at.view.dtype(name) for name in names if name)
    return {"types": " and ".join(kinds)} if len(kinds) > 1 and "" not in kinds else None


def uint8_not_cast(at: Place) -> Details | None:
    """What reads a uint8 tensor and is no Cast: `{value}`."""
    view, node = at.view, at.node
    copied = node.op == "Identity" and view.is_output(*node.outputs)
    if node.op in _READ_UINT8 or copied:
        return None
    # A zero point of uint8 is no tensor to compute with.
    names = node.inputs[:1] if node.op == "QuantizeLinear" else node.inputs
    for name in names:
        if name and view.dtype(name) == "uint8" and name not in view.constants:
            return {"value": name}
    return None


def uint8_made(at: Place) -> Details | None:
    """What makes a uint8 tensor that is no output of the graph: `{value}`."""
    for name in at.node.outputs:
        if at.view.dtype(name) == "uint8" and not at.view.is_output(name):
            return {"value": name}
    return None


def int64_outputs(view: ModelView, _: Target) -> Iterator[tuple[Node, Details]]:
    """Match the graph's outputs of type int64: `{value}`."""
    for value in view.outputs:
        if type_name(value.type.tensor_type.elem_type) == "int64":
            yield WHOLE, {"value": value.name}


def _first_bad(stored: Array | None, good: Callable[[Array], Array]) -> Details | None:
    """The first number of a constant that is not good: `{found}`."""
    if stored is None:
        return None
    values = stored.astype(np.float32, copy=False)
    wrong = values[~good(values)]
    return {"found": float(wrong.flat[0])} if wrong.size else None


def nonzero_zero_point(at: Place) -> Details | None:
    """Q or DQ whose zero point is not zero: `{found}`."""
    return _first_bad(at.array(2), lambda values: values == 0)


def scale_not_positive(at: Place) -> Details | None:
    """Q or DQ with a scale of zero or below, or with none that is a number: `{found}`."""
    return _first_bad(at.array(1), lambda values: values > 0)


def int32_dequantized(at: Place) -> bool:
    """DequantizeLinear of an int32 tensor."""
    return at.dtype(0) == "int32"


def uint8_dequantized(at: Place) -> bool:
    """DequantizeLinear of a uint8 tensor that no node computes."""
    name = at.node.input(0)
    given = name in at.view.constants or name not in at.view.producers
    return given and at.dtype(0) == "uint8"


def uint8_quantized(at: Place) -> bool:
    """QuantizeLinear to uint8, also where its zero point is left out."""
    wanted = type_name(int(at.node.attributes.get("output_dtype", 0))) or "uint8"
    return (at.dtype(2) if at.node.input(2) else wanted) == "uint8"


def repeated_names(view: ModelView, _: Target) -> Iterator[tuple[Node, Details]]:
    """Match Q and DQ that have the name of an earlier Q or DQ."""
    earlier: set[str] = set()
    for node in view.of("QuantizeLinear", "DequantizeLinear"):
        if node.name in earlier:
            yield node, {}
        earlier.add(node.name)


def per_channel_activation(at: Place) -> Details | None:
    """QuantizeLinear of a computed tensor with several scales: `{scales}`."""
    scales = (at.view.shape(at.node.input(1)) or (1,))[0] or 1
    return {"scales": scales} if scales > 1 and not at.view.is_constant(at.node.input(0)) else None


def only_weights_quantized(at: Place) -> bool:
    """An operator with quantized weights and a float input."""
    return [_dequantized(at.view, at.node.input(index)) for index in (0, 1)] == [False, True]


def float_residual(at: Place) -> bool:
    """Add of a quantized convolution's output and a float tensor that is no constant."""
    names = at.node.inputs
    return len(names) == 2 and any(
        _from_quantized_convolution(at.view, convolved)
        and not at.view.is_constant(other)
        and not _dequantized(at.view, other)
        for convolved, other in (names, names[::-1])
    )


def _dequantized(view: ModelView, name: str) -> bool:
    node = view.producers.get(name)
    # A transposed or reshaped weight is still one.
    if node is not None and node.op in ("Transpose", "Reshape"):
        node = view.producers.get(node.input(0))
    return node is not None and node.op == "DequantizeLinear"


def _from_quantized_convolution(view: ModelView, name: str) -> bool:
    node = view.producers.get(name)
    for _ in range(4):
        if node is not None and node.op in _AFTER_CONVOLUTION:
            node = view.producers.get(node.input(0))
    return node is not None and node.op == "Conv" and _dequantized(view, node.input(1))
