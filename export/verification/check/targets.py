"""The TensorRT versions that a model may meet, and the opsets and operators that each reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from foldcam.runtime.system.errors import FoldcamError

Version = tuple[int, int]
Flavour = Literal["tensorrt", "tensorrt_rtx"]
ALL = "all"

# (from this TensorRT on, newest opset), after the table "Supported ONNX Operators" of
# https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md in each release, and
# https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/onnx-opset-guide.html.
# 10.11 to 10.14 link ONNX 1.18, whose newest is 23 (its docs/Changelog.md).
_NEWEST_OPSET: tuple[tuple[Version, int], ...] = (
    ((8, 5), 17), ((10, 0), 20), ((10, 9), 22), ((10, 11), 23), ((10, 15), 24), ((11, 0), 25),
)  # fmt: skip
_OLDEST: Version = (8, 5)

# The operators that each parser knows, after the same tables of the releases 8.5, 10.15 and
# 11.2 and after its docs/Changelog.md, which dates the additions between them.
_KNOWN_SINCE: dict[Version, str] = {
    (8, 5): """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
        Cast Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
        DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten
        Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
        Greater GreaterOrEqual GridSample GRU HardSigmoid HardSwish Identity If ImageScaler
        InstanceNormalization IsNaN LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM
        LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg
        NonMaxSuppression NonZero Not OneHot Or Pad ParametricSoftplus Pow PRelu QuantizeLinear
        RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1
        ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan
        Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
        Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu
        Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
        """,
    (8, 6): "GroupNormalization LayerNormalization IsInf",
    (10, 0): "Hardmax",
    (10, 1): "DeformConv",
    (10, 4): "BlackmanWindow HammingWindow HannWindow",
    (10, 5): "STFT",
    (10, 14): "Attention",
    (10, 15): "RMSNormalization RotaryEmbedding TensorScatter CastLike Gelu Mish",
    (11, 2): "DFT Swish",
}
_SINCE = {name: since for since, names in _KNOWN_SINCE.items() for name in names.split()}
# Operators that no changelog dates: the last table without them.
_LAST_WITHOUT: dict[str, Version] = {
    **dict.fromkeys(("CastLike", "Gelu", "Mish"), (8, 6)),
    **dict.fromkeys(("DFT", "Swish"), (10, 15)),
}
# Not in TensorRT-RTX 1.7, although its parser is that of TensorRT 11: it lacks their plugins.
# Measured with `OnnxParser.supports_operator` and its parser.
_NOT_IN_RTX = {"DeformConv", "DFT", "NonZero", "RoiAlign"}


@dataclass(frozen=True)
class Target:
    """One TensorRT on one kind of machine.

    Attributes:
        name: the name on the command line.
        version: major and minor number of TensorRT; for RTX those of the standard TensorRT
            whose parser it shares.
        flavour: `tensorrt`, or `tensorrt_rtx`.
        dla: boards of this target that have DLA cores which this TensorRT can use; empty
            for none.
    """

    name: str
    version: Version
    flavour: Flavour = "tensorrt"
    dla: str = ""

    @property
    def newest_opset(self) -> int:
        """The newest opset that its parser promises to read."""
        return max(opset for since, opset in _NEWEST_OPSET if self.version >= since)

    @property
    def oldest_opset(self) -> int:
        """The oldest opset that its parser promises to read."""
        return 9 if self.version >= (10, 0) else 7

    @property
    def title(self) -> str:
        """The name in a sentence, such as `TensorRT 10.3`."""
        return "TensorRT-RTX" if self.flavour == "tensorrt_rtx" else f"TensorRT {self.number}"

    @property
    def number(self) -> str:
        """The version as text, such as `10.3`."""
        return ".".join(map(str, self.version))

    def knows(self, operator: str) -> bool | None:
        """Whether its parser reads one of ONNX's own operators; None where no table says."""
        if self.flavour == "tensorrt_rtx" and operator in _NOT_IN_RTX:
            return False
        if self.version >= _SINCE.get(operator, (99, 0)):
            return True
        return None if self.version > _LAST_WITHOUT.get(operator, (99, 0)) else False


def first_version(operator: str) -> Version | None:
    """The first TensorRT that is documented to read an operator; None where none is."""
    return _SINCE.get(operator)


_ORIN = "Orin NX and AGX Orin"
TARGETS = (
    Target("jetpack-6.0", (8, 6), dla=_ORIN),
    Target("jetpack-6.1", (10, 3), dla=_ORIN),
    Target("jetpack-6.2", (10, 3), dla=_ORIN),
    Target("jetpack-7.0", (10, 13)),
    Target("jetpack-7.1", (10, 13)),
    Target("jetpack-7.2", (10, 16)),
    # An optional package from JetPack 7.2.2 on.
    Target("jetpack-7.2-tensorrt-11", (11, 4), dla="AGX Orin"),
    Target("desktop-10.3", (10, 3)),
    Target("desktop-10.9", (10, 9)),
    Target("desktop-10.13", (10, 13)),
    Target("desktop-10.16", (10, 16)),
    Target("desktop-11", (11, 0)),
    Target("rtx", (11, 4), "tensorrt_rtx"),
)


def find_targets(names: list[str]) -> tuple[Target, ...]:
    """Look targets up by name.

    Args:
        names: names of `TARGETS`, `desktop-MAJOR.MINOR` for any other TensorRT from 8.5 on, or
            `all` for the whole table.

    Returns:
        Each target once, in the order of the table, others last.

    Raises:
        FoldcamError: a name is unknown; the message lists the known ones.
    """
    if ALL in names:
        return TARGETS
    table = {target.name for target in TARGETS}
    others = [name for name in dict.fromkeys(names) if name not in table]
    return (*(each for each in TARGETS if each.name in names), *map(_desktop, others))


def _desktop(name: str) -> Target:
    match = re.fullmatch(r"desktop-(\d{1,2})(?:\.(\d{1,2}))?", name)
    version = (int(match[1]), int(match[2] or 0)) if match else (0, 0)
    if version < _OLDEST:
        raise FoldcamError(
            f"The target {name!r} is unknown: choose among "
            f"{', '.join(target.name for target in TARGETS)}, desktop-MAJOR.MINOR from "
            f"desktop-{_OLDEST[0]}.{_OLDEST[1]} on, or {ALL}."
        )
    return Target(name, version)
