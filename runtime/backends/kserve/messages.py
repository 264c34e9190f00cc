"""The KServe v2 protocol with its binary tensor data extension: arrays to bytes, and back.

A body is a JSON header, whose length a header field says, and behind it the tensors' bytes, row
by row and little-endian, in the order in which the JSON names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.onnx_file import TensorInfo

HEADER_LENGTH = "inference-header-content-length"
DATATYPES = {"float32": "FP32", "uint8": "UINT8", "int32": "INT32"}
Array = npt.NDArray[Any]


class MessageError(Exception):
    """What came is not what the protocol or the model promises, as a clause."""


def request(arrays: Mapping[str, Array], outputs: Iterable[str]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an inference.

    Args:
        arrays: the inputs by name, of the dtypes of `DATATYPES`.
    """
    inputs, data = [], []
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        data.append(raw)
        inputs.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": DATATYPES[str(array.dtype)],
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = json.dumps({"inputs": inputs, "outputs": wanted}).encode()
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *data]), headers


def response(
    body: bytes, headers: Mapping[str, str], expected: Sequence[TensorInfo], rows: int
) -> dict[str, Array]:
    """The outputs of an inference."""
    length = headers.get(HEADER_LENGTH, str(len(body)))
    if not (length.isascii() and length.isdecimal() and int(length) <= len(body)):
        raise MessageError("its header has a length that is none")
    outputs = json_of(body[: int(length)]).get("outputs")
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise MessageError("its answer has no outputs")
    at, found = int(length), {}
    for output in outputs:
        parameters = output.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        data = output.get("data")
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(body) - at:
                raise MessageError("its answer ends before its tensors do")
            data, at = body[at : at + size], at + size
        found[str(output.get("name"))] = (output.get("datatype"), data)
    return {tensor.name: _array(tensor, found.get(tensor.name), rows) for tensor in expected}


def json_of(body: bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise MessageError("its answer is no JSON object")
    return document


def _array(tensor: TensorInfo, found: tuple[Any, Any] | None, rows: int) -> Array:
    if found is None:
        raise MessageError(f"its answer has no {tensor.name!r}")
    datatype, data = found
    shape = [rows, *(int(size) for size in tensor.shape[1:])]
    wanted = np.dtype(tensor.dtype)
    try:
        if datatype != DATATYPES[tensor.dtype]:
            raise ValueError
        if isinstance(data, bytes):
            # Its own memory, which the caller may keep and write to.
            array = np.frombuffer(data, wanted.newbyteorder("<")).astype(wanted)
        else:
            array = np.asarray(data, wanted)
        return array.reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise MessageError(
            f"its {tensor.name!r} is not the {tensor.dtype} {shape} of the model's metadata"
        ) from None
