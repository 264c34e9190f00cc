"""Convolutions and pools: operators that slide a window over positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from foldcam.export.networks.onnx_torch.call import Call, Operator, UnsupportedError

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Any] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_AVERAGE: dict[int, Any] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_MAXIMUM: dict[int, Any] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}


class _Window:
    """Kernel, strides, dilations and padding, one number per spatial dimension.

    Padding to a rounded-up size is in `end`; `extra` is what it added.
    """

    def __init__(self, call: Call, sizes: list[int], kernel: list[int]) -> None:
        count = len(sizes)
        if count not in _CONV:
            raise UnsupportedError(f"it has {count} spatial dimensions")
        self.kernel = kernel
        self.strides = call.ints("strides") or [1] * count
        self.dilations = call.ints("dilations") or [1] * count
        self.spans = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        pads = call.ints("pads") or [0] * (2 * count)
        self.begin, self.end = pads[:count], pads[count:]
        rule = call.text("auto_pad", "NOTSET")
        if rule == "VALID":
            self.begin, self.end = [0] * count, [0] * count
        elif rule in ("SAME_UPPER", "SAME_LOWER"):
            for at, size in enumerate(sizes):
                wanted = math.ceil(size / self.strides[at])
                missing = max(0, (wanted - 1) * self.strides[at] + self.spans[at] - size)
                less, more = missing // 2, missing - missing // 2
                upper = rule == "SAME_UPPER"
                self.begin[at], self.end[at] = (less, more) if upper else (more, less)
        self.extra = [0] * count
        if call.int("ceil_mode", 0):
            self._round_up(sizes)

    def _round_up(self, sizes: list[int]) -> None:
        for at, size in enumerate(sizes):
            padded = size + self.begin[at] + self.end[at]
            steps = math.ceil((padded - self.spans[at]) / self.strides[at])
            if steps * self.strides[at] >= size + self.begin[at]:
                # A window that would begin in the padding at the end is left out.
                steps -= 1
            self.extra[at] = max(0, steps * self.strides[at] + self.spans[at] - padded)

    def padded(self, x: Tensor, value: float, with_extra: bool = True) -> Tensor:
        """`x` with its padding filled with `value`."""
        pads: list[int] = []
        for at in reversed(range(len(self.kernel))):
            pads += [self.begin[at], self.end[at] + (self.extra[at] if with_extra else 0)]
        return functional.pad(x, pads, value=value) if any(pads) else x

    def extended(self, x: Tensor, value: float) -> Tensor:
        """`x`, padded, with what rounding up added."""
        pads = [each for extra in reversed(self.extra) for each in (0, extra)]
        return functional.pad(x, pads, value=value) if any(pads) else x


def _spatial(x: Tensor) -> list[int]:
    return list(x.shape[2:])


def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    window = _Window(call, _spatial(x), list(weight.shape[2:]))
    function: Any = _CONV[weight.ndim - 2]
    padded = window.padded(x, 0.0)
    result: Tensor = function(
        padded, weight, bias, window.strides, 0, window.dilations, call.int("group", 1)
    )
    return result


def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    count = weight.ndim - 2
    if count not in _TRANSPOSED:
        raise UnsupportedError(f"it has {count} spatial dimensions")
    strides = call.ints("strides") or [1] * count
    dilations = call.ints("dilations") or [1] * count
    added = call.ints("output_padding") or [0] * count
    pads = call.ints("pads") or [0] * (2 * count)
    rule = call.text("auto_pad", "NOTSET")
    wanted = call.ints("output_shape")
    if wanted is None and rule.startswith("SAME"):
        wanted = [size * stride for size, stride in zip(_spatial(x), strides, strict=True)]
    full: Tensor = _TRANSPOSED[count](
        x, weight, bias, strides, 0, 0, call.int("group", 1), dilations
    )
    # torch wants less output padding than stride, ONNX does not: it is cut and padded here.
    crop: list[int] = []
    for at in reversed(range(count)):
        begin, end = pads[at], pads[at + count] - added[at]
        if wanted is not None:
            total = full.shape[2 + at] + added[at] - wanted[-count:][at]
            begin = total // 2 if rule == "SAME_UPPER" else total - total // 2
            end = total - begin - added[at]
        crop += [-begin, -end]
    if min(crop) < 0 or max(crop) > 0:
        if bias is not None and max(crop) > 0:
            raise UnsupportedError("it adds padding to its output")
        full = functional.pad(full, crop)
    return full


def _kernel(call: Call) -> list[int]:
    kernel = call.ints("kernel_shape")
    if kernel is None:
        raise UnsupportedError("it has no kernel_shape")
    return kernel


def _max_pool(call: Call, x: Tensor) -> Tensor:
    call.one_output()
    window = _Window(call, _spatial(x), _kernel(call))
    padded = window.padded(x, -math.inf)
    result: Tensor = _MAXIMUM[x.ndim - 2](
        padded, window.kernel, window.strides, 0, window.dilations
    )
    return result


def _average_pool(call: Call, x: Tensor) -> Tensor:
    window = _Window(call, _spatial(x), _kernel(call))
    if any(step != 1 for step in window.dilations):
        raise UnsupportedError("it is dilated")
    pool = _AVERAGE[x.ndim - 2]
    inside = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
    # What counts is the padding where the file says so, and never what rounding up added.
    counted = 1.0 if call.int("count_include_pad", 0) else 0.0
    inside = window.extended(window.padded(inside, counted, with_extra=False), 0.0)
    sums = pool(window.padded(x, 0.0), window.kernel, window.strides)
    share = pool(inside, window.kernel, window.strides)
    result: Tensor = sums / share
    return result


def _global_lp_pool(call: Call, x: Tensor) -> Tensor:
    power = call.int("p", 2)
    dims = tuple(range(2, x.ndim))
    norm: Tensor = torch.linalg.vector_norm(x, power, dim=dims, keepdim=True)
    return norm


def _resize(
    call: Call,
    x: Tensor,
    _: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    mode = call.text("mode", "nearest")
    place = call.text("coordinate_transformation_mode", "half_pixel")
    if x.ndim != 4 or call.int("antialias", 0):
        raise UnsupportedError("it is not a plain resize of maps")
    names = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}
    aligned = place == "align_corners"
    if mode == "nearest":
        nearest = call.text("nearest_mode", "round_prefer_floor")
        if place != "asymmetric" or nearest != "floor":
            names["nearest"] = "nearest-exact"
    axes = call.ints("axes") or [0, 1, 2, 3]
    options = {} if mode == "nearest" else {"align_corners": aligned}
    if mode == "cubic" and call.float("cubic_coeff_a", -0.75) != -0.75:
        raise UnsupportedError("it has a cubic coefficient of its own")
    if sizes is not None:
        full = list(x.shape)
        for axis, size in zip(axes, sizes.tolist(), strict=True):
            full[axis] = int(size)
        return _interpolated(x, full[2:], names[mode], options)
    if scales is None:
        raise UnsupportedError("it has neither scales nor sizes")
    factors = [1.0] * 4
    for axis, factor in zip(axes, scales.tolist(), strict=True):
        factors[axis] = float(factor)
    target = [int(size * factor) for size, factor in zip(x.shape[2:], factors[2:], strict=True)]
    return _interpolated(x, target, names[mode], options)


def _interpolated(x: Tensor, target: list[int], mode: str, options: dict[str, bool]) -> Tensor:
    result: Tensor = functional.interpolate(x, target, mode=mode, **options)
    return result


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    size = call.int("blocksize", 1)
    count, channels, height, width = x.shape
    inner = channels // size**2
    if call.text("mode", "DCR") == "CRD":
        blocks = x.reshape(count, inner, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        blocks = x.reshape(count, size, size, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(count, inner, height * size, width * size)


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    size = call.int("blocksize", 1)
    count, channels, height, width = x.shape
    blocks = x.reshape(count, channels, height // size, size, width // size, size)
    moved = blocks.permute(0, 3, 5, 1, 2, 4)
    return moved.reshape(count, channels * size**2, height // size, width // size)


OPERATORS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "GlobalAveragePool": lambda _, x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True),
    "GlobalLpPool": _global_lp_pool,
    "GlobalMaxPool": lambda _, x: x.amax(dim=tuple(range(2, x.ndim)), keepdim=True),
    "MaxPool": _max_pool,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
}
