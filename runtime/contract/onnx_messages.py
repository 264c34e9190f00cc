"""The messages inside an ONNX file, found wherever they are, without parsing the weights.

Constants, attributes, subgraphs, sparse tensors, functions and training graphs can all hold
tensors and operators: a reader that looks at the main graph alone has not looked at the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from foldcam.runtime.contract.protobuf import BYTES, Buffer, MalformedError, fields

TENSOR, NODE = "TensorProto", "NodeProto"
_GRAPH, _ATTRIBUTE, _SPARSE = "GraphProto", "AttributeProto", "SparseTensorProto"
_FUNCTION = "FunctionProto"
# onnx.proto: for each message the fields that hold others, and which those are.
_NESTED: dict[str, dict[int, str]] = {
    "ModelProto": {7: _GRAPH, 20: "TrainingInfoProto", 25: _FUNCTION},
    "TrainingInfoProto": {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: NODE, 5: TENSOR, 15: _SPARSE},
    NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: TENSOR, 6: _GRAPH, 10: TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {},
}
# As deep as a protocol buffer may be, by its own libraries.
_DEEPEST = 100
# A network has fewer; what has more would only keep this reader busy.
_MOST_FIELDS = 1 << 24


def messages(buffer: Buffer, kinds: Collection[str]) -> Iterator[tuple[str, int, int]]:
    """Every message of some kinds in an ONNX file, in no order that means anything.

    Yields:
        `(kind, first byte, byte after the last)`.

    Raises:
        MalformedError: no ONNX file, or one nested too deeply or with far too many fields.
    """
    left = _MOST_FIELDS
    stack = [("ModelProto", 0, len(buffer), 1)]
    while stack:
        kind, start, end, depth = stack.pop()
        if depth > _DEEPEST:
            raise MalformedError
        if kind in kinds:
            yield kind, start, end
        nested = _NESTED[kind]
        if not nested:
            continue
        for number, wire, value, stop in fields(buffer, start, end):
            left -= 1
            if left < 0:
                raise MalformedError
            if wire == BYTES and number in nested:
                stack.append((nested[number], value, stop, depth + 1))
