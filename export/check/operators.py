"""Which operators each TensorRT's ONNX parser knows.

After the tables "Supported ONNX Operators" of the onnx-tensorrt releases 8.5, 10.15 and 11.2
and its docs/Changelog.md, which dates the additions between them; the column of TensorRT-RTX
was measured with `OnnxParser.supports_operator` and its parser.
"""

from __future__ import annotations

from typing import Literal

from foldcam.export.check.targets import Target, Version

Support = Literal["yes", "no", "unknown"]

_SINCE_8_5 = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil
Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
GridSample GRU HardSigmoid HardSwish Identity If ImageScaler InstanceNormalization IsNaN LeakyRelu
Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad
ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform
RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN
RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""

_SINCE: dict[str, Version] = {
    **dict.fromkeys(_SINCE_8_5.split(), (8, 5)),
    **dict.fromkeys(("GroupNormalization", "LayerNormalization", "IsInf"), (8, 6)),
    "Hardmax": (10, 0),
    "DeformConv": (10, 1),
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow"), (10, 4)),
    "STFT": (10, 5),
    "Attention": (10, 14),
    **dict.fromkeys(("RMSNormalization", "RotaryEmbedding", "TensorScatter"), (10, 15)),
}

# operator -> (last table without it, first table with it): no changelog says when it came.
_UNDATED: dict[str, tuple[Version, Version]] = {
    **dict.fromkeys(("CastLike", "Gelu", "Mish"), ((8, 6), (10, 15))),
    **dict.fromkeys(("DFT", "Swish"), ((10, 15), (11, 2))),
}

# Not in TensorRT-RTX 1.7 although its parser is that of TensorRT 11: the plugins that
# they need are not there.
_NOT_IN_RTX = {"DeformConv", "DFT", "NonZero", "RoiAlign"}


def support(operator: str, target: Target) -> Support:
    """Whether the target's parser reads an operator of the standard domain.

    `unknown` where the operator came between two published tables that do not date it.
    """
    if target.flavour == "tensorrt_rtx" and operator in _NOT_IN_RTX:
        return "no"
    if operator in _SINCE:
        return "yes" if target.version >= _SINCE[operator] else "no"
    if operator in _UNDATED:
        without, with_it = _UNDATED[operator]
        if target.version >= with_it:
            return "yes"
        return "unknown" if target.version > without else "no"
    return "no"


def first_version(operator: str) -> Version | None:
    """The first TensorRT that is documented to read it; None where none is."""
    if operator in _UNDATED:
        return _UNDATED[operator][1]
    return _SINCE.get(operator)


# What TensorRT gives to DLA by itself, the column "Orin DLA support through TensorRT" of
# https://github.com/NVIDIA/Deep-Learning-Accelerator-SW/blob/main/operators/README.md.
_DLA = """
Abs Add AveragePool BatchNormalization Clip Concat Constant Conv ConvTranspose Equal Gemm
LeakyRelu LRN MatMul Max MaxPool Mul PRelu Relu Reshape Resize Sigmoid Slice Softmax Split Sub
Sum Tanh Transpose Upsample
"""
DLA_OPERATORS = frozenset(_DLA.split())
# Folded away while the engine is built.
DLA_FREE = frozenset({"Constant", "ConstantOfShape", "Shape", "Identity", "Dropout"})
