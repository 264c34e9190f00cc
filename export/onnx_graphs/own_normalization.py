"""Networks that begin by normalising their images: what they take is not normalised yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from foldcam.export.onnx_graphs.values import tensors_of
from foldcam.runtime.images.preprocess import Preprocessing

Doubles = npt.NDArray[np.float64]

_PASSED = {"Identity", "Cast", "Dropout", "Transpose"}
_CHANNELS = 3
# The deviation of pixels of 0 to 255 is 40 to 128, or 255 where they are only scaled.
_LEAST_BYTE_STD = 10.0
# A learned batch normalisation of normalised images has a mean about 0: it is no such thing.
_UNIT_MEAN = (0.2, 0.8)
_UNIT_STD = (0.1, 0.8)
BYTE_STD = 1 / 255


@dataclass(frozen=True)
class OwnNormalization:
    """What a network does to its image first: `(image - mean) / std`.

    Attributes:
        mean, std: three numbers each.
        takes_bytes: whether it takes pixels of 0 to 255; else of 0 to 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    takes_bytes: bool

    @property
    def flags(self) -> str:
        """What gives the network the pixels that it takes."""
        number = "0.00392156863" if self.takes_bytes else "1"
        return f"--mean 0,0,0 --std {number},{number},{number}"

    @property
    def text(self) -> str:
        """`mean 123.675,116.28,103.53, deviation 58.395,57.12,57.375; it takes ...`."""
        mean, std = (",".join(f"{n:.6g}" for n in each) for each in (self.mean, self.std))
        pixels = "0 to 255" if self.takes_bytes else "0 to 1"
        return f"mean {mean}, standard deviation {std}, so that it takes pixels of {pixels}"

    def fits(self, preprocessing: Preprocessing) -> bool:
        """Whether a preprocessing gives the network what it takes."""
        wanted = BYTE_STD if self.takes_bytes else 1.0
        return not any(preprocessing.mean) and bool(
            np.allclose(preprocessing.std, wanted, rtol=1e-3)
        )


def own_normalization(graph: onnx.GraphProto) -> OwnNormalization | None:
    """How a network with one input normalises it before anything else; None if it does not.

    Recognised are steps with constants of one number or one per channel (Sub, Add, Mul, Div,
    BatchNormalization), in any order, whose effect is that of a known kind.
    """
    constants = tensors_of(graph)
    inputs = [value.name for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        return None
    scale, offset = np.ones(_CHANNELS), np.zeros(_CHANNELS)
    name = inputs[0]
    while True:
        users = [node for node in graph.node if name in node.input and node.op_type != "Shape"]
        if len(users) != 1:
            break
        step = _step(users[0], name, constants)
        if step is None:
            break
        scale, offset = scale * step[0], offset * step[0] + step[1]
        name = users[0].output[0]
    return _known(scale, offset)


def _step(
    node: onnx.NodeProto, name: str, constants: dict[str, onnx.TensorProto]
) -> tuple[Doubles, Doubles] | None:
    """Factor and summand of each channel."""
    one, zero = np.ones(_CHANNELS), np.zeros(_CHANNELS)
    if node.op_type in _PASSED:
        return one, zero
    if node.op_type == "BatchNormalization" and node.input[0] == name:
        numbers = [_per_channel(constants.get(each)) for each in node.input[1:5]]
        gamma, beta, mean, variance = numbers
        if gamma is None or beta is None or mean is None or variance is None:
            return None
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factor = gamma / np.sqrt(variance + epsilon)
        return factor, beta - mean * factor
    if node.op_type not in ("Sub", "Add", "Mul", "Div") or len(node.input) != 2:
        return None
    first = node.input[0] == name
    number = _per_channel(constants.get(node.input[1 if first else 0]))
    if number is None:
        return None
    if node.op_type == "Add":
        return one, number
    if node.op_type == "Mul":
        return number, zero
    if node.op_type == "Sub":
        return (one, -number) if first else (-one, number)
    return (1 / number, zero) if first and number.all() else None


def _per_channel(tensor: onnx.TensorProto | None) -> Doubles | None:
    if tensor is None or int(np.prod(tensor.dims)) not in (1, _CHANNELS):
        return None
    numbers = numpy_helper.to_array(tensor).astype(np.float64).ravel()
    return np.ones(_CHANNELS) * numbers


def _known(scale: Doubles, offset: Doubles) -> OwnNormalization | None:
    if not (np.isfinite(scale).all() and np.isfinite(offset).all() and (scale > 0).all()):
        return None
    mean, std = -offset / scale, 1 / scale
    takes_bytes = bool(std.min() > _LEAST_BYTE_STD and mean.min() >= 0 and mean.max() <= 255)
    takes_units = bool(
        mean.min() >= _UNIT_MEAN[0]
        and mean.max() <= _UNIT_MEAN[1]
        and std.min() >= _UNIT_STD[0]
        and std.max() <= _UNIT_STD[1]
    )
    if not (takes_bytes or takes_units):
        return None
    # An offset of -0.0 is none.
    return OwnNormalization(tuple(map(float, mean + 0.0)), tuple(map(float, std)), takes_bytes)
