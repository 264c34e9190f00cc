"""A small reader for the header of an ONNX file.

A device with TensorRT alone has neither onnx nor onnxruntime, yet needs the
contract. An ONNX file is one protocol-buffer message (onnx.proto, `ModelProto`);
its fields are walked without parsing the weights, which are skipped by length.
It goes before every library: what it refuses, no other parser opens.
"""

from __future__ import annotations

import mmap
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from foldcam.runtime.contract.external_data import (
    External,
    ExternalDataError,
    checked_places,
    external_data,
)
from foldcam.runtime.contract.onnx_sizes import SizeError, check_sizes
from foldcam.runtime.contract.protobuf import (
    BYTES,
    NODE,
    VARINT,
    Buffer,
    MalformedError,
    fields,
    length_delimited,
    messages,
)
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import MAX_METADATA_BYTES, METADATA_KEY, Contract
from foldcam.runtime.system.documents import Natural
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special
from foldcam.runtime.system.text import printable, shorten

_ELEMENT_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 16: "bfloat16",
}  # fmt: skip
_OP_TYPE, _DOMAIN = 4, 7
# The last is how ONNX Runtime writes convolutions for a processor.
_STANDARD = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft.nchwc")
# What ONNX Runtime's optimizer and quantizer write.
_MICROSOFT = frozenset([
    "Attention", "BiasAdd", "BiasGelu", "BiasSoftmax", "BiasSplitGelu",
    "ConvTransposeWithDynamicPads", "DequantizeLinear", "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul", "EmbedLayerNormalization", "ExpandDims", "FastGelu", "FusedConv",
    "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gelu", "GridSample", "GroupNorm",
    "GroupQueryAttention", "Inverse", "MatMulBnb4", "MatMulInteger16", "MatMulIntegerToFloat",
    "MatMulNBits", "MaxpoolWithMask", "MultiHeadAttention", "NGramRepeatBlock", "NhwcConv",
    "NhwcFusedConv", "NhwcMaxPool", "PackedAttention", "PackedMultiHeadAttention", "Pad",
    "QAttention", "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool",
    "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul",
    "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QMoE",
    "QOrderedMatMul", "QuantizeLinear", "QuickGelu", "ReduceSumInteger", "RelativePositionBias",
    "RotaryEmbedding", "SkipGroupNorm", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization", "Trilu", "TransposeMatMul",
    "UnfoldTensor", "Unique",
])  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Name, dtype and shape of a graph input or output; a dynamic size is a string."""

    name: str
    dtype: str
    shape: Annotated[tuple[Natural | str, ...], Meta(max_length=8)]


@dataclass
class OnnxHeader:
    """What can be known of an ONNX file without its weights."""

    opset: int = 0
    producer: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    inputs: list[TensorInfo] = field(default_factory=list)
    outputs: list[TensorInfo] = field(default_factory=list)
    external: tuple[External, ...] = ()
    foreign: tuple[str, ...] = ()


class _MetadataError(Exception):
    """An entry that is too large, or there twice; the message says which."""


def read_header(path: Path) -> OnnxHeader:
    """Read metadata, opset, inputs and outputs of an ONNX file."""
    refuse_special(path)
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as buffer,
        ):
            header = _model(buffer)
            header.external = tuple(external_data(buffer))
            checked_places(path, header.external)
            header.foreign = tuple(foreign_operators(buffer))
            check_sizes(buffer)
    except FileNotFoundError:
        raise FoldcamError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise FoldcamError(f"{path} is a folder, not an ONNX file.") from None
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ExternalDataError, SizeError) as error:
        raise FoldcamError(f"{path}: {error}") from None
    except _MetadataError as error:
        raise FoldcamError(f"{path}: its metadata {error}.") from None
    except (MalformedError, ValueError, IndexError):
        raise FoldcamError(f"{path} is not an ONNX file, or it is damaged.") from None
    if not header.outputs:
        raise FoldcamError(f"{path} is not an ONNX file, or it is damaged.")
    return header


def is_folded(path: Path) -> bool:
    """Whether a file is an ONNX model with foldcam's metadata."""
    try:
        return path.is_file() and METADATA_KEY in read_header(path).metadata
    except (FoldcamError, OSError):
        return False


def read_contract(path: Path | str) -> Contract:
    """Read what a folded model promises: layer, bank, labels, preprocessing, origin.

    The file is read without ONNX Runtime and without onnx, and nothing in it is run.

    Args:
        path: a folded `.onnx`.

    Raises:
        FoldcamError: the file is missing, unreadable or no ONNX file; it is an ONNX model that
            was not folded, has operators that may do something else than compute, states sizes
            that no network needs, or its metadata is malformed.

    Example:
        >>> from foldcam import read_contract
        >>> contract = read_contract("model.onnx")
        >>> contract.bank.rows, contract.bank.embedding_size, contract.image_size
        (24, 32, (96, 96))
        >>> contract.label_of(23)
        'red'
    """
    path = Path(path)
    header = read_header(path)
    if METADATA_KEY not in header.metadata:
        raise FoldcamError(
            f"{path} is an ONNX model but not a folded one: its metadata has no entry "
            f"{METADATA_KEY!r}. Make one with: foldcam export {shlex.quote(str(path))} --images "
            f"DATA --out {shlex.quote(path.with_suffix('.folded.onnx').name)}"
        )
    if header.foreign:
        raise FoldcamError(
            f"{path} has an operator that is none of ONNX's own, {header.foreign[0]}, and could do "
            "anything with this machine: it was changed after it was folded; fold it again."
        )
    return parse_contract(header.metadata[METADATA_KEY], str(path))


def _model(buffer: Buffer) -> OnnxHeader:
    header = OnnxHeader()
    for number, start, end in length_delimited(buffer, 0, len(buffer)):
        if number == 2:
            header.producer = _text(buffer, start, end)
        elif number == 7:
            _graph(buffer, start, end, header)
        elif number == 8:
            domain, version = _opset(buffer, start, end)
            if domain in ("", "ai.onnx"):
                header.opset = version
        elif number == 14:
            key, value = _entry(buffer, start, end)
            if key == METADATA_KEY and key in header.metadata:
                # Which of the two another reader takes is up to that reader.
                raise _MetadataError(f"holds two entries {key!r}: it was tampered with")
            header.metadata[key] = value
    return header


def _graph(buffer: Buffer, start: int, end: int, header: OnnxHeader) -> None:
    for number, inner, stop in length_delimited(buffer, start, end):
        if number == 11:
            header.inputs.append(_value_info(buffer, inner, stop))
        elif number == 12:
            header.outputs.append(_value_info(buffer, inner, stop))


def _value_info(buffer: Buffer, start: int, end: int) -> TensorInfo:
    name, dtype = "", "unknown"
    shape: list[int | str] = []
    for number, inner, stop in length_delimited(buffer, start, end):
        if number == 1:
            name = _text(buffer, inner, stop)
        elif number == 2:
            for kind, low, high in length_delimited(buffer, inner, stop):
                if kind == 1:
                    dtype, shape = _tensor_type(buffer, low, high)
    return TensorInfo(name, dtype, tuple(shape))


def _tensor_type(buffer: Buffer, start: int, end: int) -> tuple[str, list[int | str]]:
    dtype = "unknown"
    shape: list[int | str] = []
    for number, wire, value, stop in fields(buffer, start, end):
        if number == 1 and wire == VARINT:
            dtype = _ELEMENT_TYPES.get(value, f"type {value}")
        elif number == 2 and wire == BYTES:
            for kind, low, high in length_delimited(buffer, value, stop):
                if kind == 1:
                    shape.append(_dimension(buffer, low, high))
    return dtype, shape


def _dimension(buffer: Buffer, start: int, end: int) -> int | str:
    for number, wire, value, stop in fields(buffer, start, end):
        if number == 1 and wire == VARINT:
            return value
        if number == 2 and wire == BYTES:
            return _text(buffer, value, stop)
    return "?"


def _opset(buffer: Buffer, start: int, end: int) -> tuple[str, int]:
    domain, version = "", 0
    for number, wire, value, stop in fields(buffer, start, end):
        if number == 1 and wire == BYTES:
            domain = _text(buffer, value, stop)
        elif number == 2 and wire == VARINT:
            version = value
    return domain, version


def _entry(buffer: Buffer, start: int, end: int) -> tuple[str, str]:
    key = value = ""
    for number, inner, stop in length_delimited(buffer, start, end):
        if number == 1:
            key = _text(buffer, inner, stop)
        elif number == 2:
            if stop - inner > MAX_METADATA_BYTES:
                raise _MetadataError(
                    f"holds an entry of {(stop - inner) >> 20} MiB, more than the "
                    f"{MAX_METADATA_BYTES >> 20} MiB allowed"
                )
            value = _text(buffer, inner, stop)
    return key, value


def _text(buffer: Buffer, start: int, end: int) -> str:
    if end - start > MAX_METADATA_BYTES:
        raise MalformedError
    return bytes(buffer[start:end]).decode("utf-8", errors="replace")


def foreign_operators(buffer: Buffer) -> Iterator[str]:
    """Operators that may do something else than compute, as `Name of 'domain'`.

    Those that a file's own functions define are among them: a folded model has none, and which
    of two operators of one name a library takes is up to that library.
    """
    used = {_domain_and_name(buffer, start, end) for _, start, end in messages(buffer, {NODE})}
    for domain, name in sorted(used):
        if domain not in _STANDARD and not (domain == "com.microsoft" and name in _MICROSOFT):
            shown, where = (printable(shorten(text, 80)) for text in (name, domain))
            yield f"{shown} of {where!r}"


def _domain_and_name(buffer: Buffer, start: int, end: int) -> tuple[str, str]:
    found = {_DOMAIN: "", _OP_TYPE: ""}
    for number, first, stop in length_delimited(buffer, start, end):
        if number in found:
            found[number] = bytes(buffer[first:stop]).decode("utf-8", errors="replace")
    return found[_DOMAIN], found[_OP_TYPE]
