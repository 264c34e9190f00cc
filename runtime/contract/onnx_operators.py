"""Which operators a folded model may have: those that compute, and no others.

ONNX's own domain only computes. Others do not: `EPContext` of com.microsoft holds a compiled
engine, or the name of one, which TensorRT behind ONNX Runtime executes; training builds run
Python functions (`PythonOp`) and any operator of torch (`ATen`) by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from foldcam.runtime.contract.protobuf import NODE, Buffer, length_delimited, messages
from foldcam.runtime.system.text import printable, shorten

_OP_TYPE, _DOMAIN = 4, 7
# The last is how ONNX Runtime writes convolutions for a processor.
_STANDARD = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft.nchwc")
# What ONNX Runtime's optimizer and quantizer write.
_MICROSOFT = frozenset(
    [
        "Attention",
        "BiasAdd",
        "BiasGelu",
        "BiasSoftmax",
        "BiasSplitGelu",
        "ConvTransposeWithDynamicPads",
        "DequantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "EmbedLayerNormalization",
        "ExpandDims",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "FusedMatMulActivation",
        "Gelu",
        "GridSample",
        "GroupNorm",
        "GroupQueryAttention",
        "Inverse",
        "MatMulBnb4",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MaxpoolWithMask",
        "MultiHeadAttention",
        "NGramRepeatBlock",
        "NhwcConv",
        "NhwcFusedConv",
        "NhwcMaxPool",
        "PackedAttention",
        "PackedMultiHeadAttention",
        "Pad",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QMoE",
        "QOrderedMatMul",
        "QuantizeLinear",
        "QuickGelu",
        "ReduceSumInteger",
        "RelativePositionBias",
        "RotaryEmbedding",
        "SkipGroupNorm",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "SimplifiedLayerNormalization",
        "Trilu",
        "TransposeMatMul",
        "UnfoldTensor",
        "Unique",
    ]
)


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
