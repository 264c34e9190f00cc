"""An ONNX file as one message in memory, with the weights that lie beside it.

The only place where foldcam's own packages parse an ONNX file and open what it names: `onnx.load`
leaves external data of functions, sparse tensors and training graphs to whoever runs the model,
who would look for them in the working directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from foldcam.export.onnx_graphs.value_sizes import check_value_sizes, inferred
from foldcam.runtime.contract.external_data import External, ExternalDataError, checked_places
from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.system.errors import FoldcamError

# A protocol buffer holds no more; half a megabyte is left for foldcam's own nodes.
MOST_BYTES = (1 << 31) - (1 << 19)


def load_message(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and the weights beside it; the message names no other file any more."""
    _check_size(path, 0)
    header = read_header(path)
    try:
        _check_size(path, sum(_length(path, each) for each in header.external))
        model = parse_message(path)
        for tensor in tensors(model):
            _embed(tensor, path)
    except ExternalDataError as error:
        raise FoldcamError(f"{path}: {error}") from None
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise FoldcamError(f"{path} is not an ONNX file, or it is damaged.") from error
    check_value_sizes(inferred(model), path)
    return model


def parse_message(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file; weights beside it stay where they are.

    Raises:
        OSError: it cannot be read.
    """
    model = onnx.ModelProto()
    data = path.read_bytes()
    try:
        model.ParseFromString(data)
        require_text(model)
    except MemoryError:
        raise
    except Exception as error:  # protobuf's DecodeError, whose module has no types
        raise FoldcamError(f"{path} is not an ONNX file, or it is damaged.") from error
    return model


def tensors(message: Any) -> Iterator[TensorProto]:
    """Every tensor of a message, in whatever field of it and its inner messages."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from tensors(inner)


def require_text(message: Any) -> None:
    """Raise where a name is not UTF-8: protobuf hands it on as bytes, or only fails when read."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        single = isinstance(value, (str, bytes)) or hasattr(value, "ListFields")
        for each in [value] if single else value:
            if hasattr(each, "ListFields"):
                require_text(each)
            elif not isinstance(each, str):
                raise UnicodeError


def _embed(tensor: TensorProto, path: Path) -> None:
    if tensor.data_location != TensorProto.EXTERNAL:
        return
    # From the message itself, which is what was parsed, and checked once more.
    entries = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = entries.get("offset", "0"), entries.get("length")
    found = External(
        tensor.name,
        entries.get("location", ""),
        int(offset),
        None if length is None else int(length),
        True,
    )
    (place,) = checked_places(path, [found])
    with place.open("rb") as stream:
        stream.seek(found.offset)
        tensor.raw_data = stream.read() if found.length is None else stream.read(found.length)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _length(path: Path, found: External) -> int:
    if not found.read:
        return 0
    (place,) = checked_places(path, [found])
    return place.stat().st_size - found.offset if found.length is None else found.length


def _check_size(path: Path, beside: int) -> None:
    total = beside + (path.stat().st_size if path.is_file() else 0)
    if total > MOST_BYTES:
        raise FoldcamError(
            f"{path} has {total / (1 << 30):.2f} GiB with its weights and a folded model, "
            "one ONNX file, holds at most 2: take a smaller network, or float16 weights."
        )


# One protocol-buffer message; weights in files beside it would be no drop-in model.
MAX_FILE_BYTES = (1 << 31) - 1
# Nodes, names and metadata, beside the weights.
_REST = 1 << 20


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of a model's constants, without serialising it (which fails beyond the limit)."""
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        tensors.extend(attribute.t for attribute in node.attribute if attribute.HasField("t"))
    return sum(
        len(tensor.raw_data)
        + 4 * (len(tensor.float_data) + len(tensor.int32_data))
        + 8 * (len(tensor.int64_data) + len(tensor.double_data))
        for tensor in tensors
    )


def check_file_size(network_bytes: int, bank_bytes: int, rows: int) -> None:
    """Refuse a folded model that is too large.

    Args:
        network_bytes: the size of the network's weights.
        bank_bytes: the size of the bank's constants, or the least that they will be.
        rows: number of training images.
    """
    total = network_bytes + bank_bytes + _REST
    if total > MAX_FILE_BYTES:
        raise FoldcamError(
            f"The folded model would be {total / 1e9:.2f} GB (network {network_bytes / 1e9:.2f}, "
            f"bank of {rows} images {bank_bytes / 1e9:.2f}) and one ONNX file holds "
            f"{MAX_FILE_BYTES / 1e9:.2f}: use --precision fp16 for the network, --compress or "
            "fewer images for the bank."
        )
