"""Weights rounded one input at a time, each making up for what those before it lost.

GPTQ (Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers"): of a layer's weights those of one input are rounded at once, and the error is
spread over the inputs still to come, by the inverse of the inputs' second moments, so that the
layer's output changes least. Here the moments are about the mean, because what rounding takes
from the mean output a bias can give back (`tuning.bias_corrections`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from threadpoolctl import threadpool_limits

from foldcam.calibrate.graph import Floats, GraphView, with_outputs
from foldcam.calibrate.placement import Layer, Placement
from foldcam.calibrate.qdq import LEVELS, Levels, nearest_levels, weight_scales
from foldcam.calibrate.session import Images, Runner
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.values import attributes_of
from foldcam.runtime.contract.schema import Contract

Progress = Callable[[str, int, int], None]
Doubles = npt.NDArray[np.float64]

# Positions of a map, or tokens, that are looked at in one image.
_POSITIONS = 128
# Beyond so many inputs of one output the inverse takes longer than it gains.
_WIDEST = 4608
# Numbers held at once: 512 MB.
_MOST_HELD = 1 << 26
# Added to the diagonal, as a share of its mean; the paper's.
_DAMPING = 0.01
_TINY = 1e-12


def gptq_levels(
    model: onnx.ModelProto,
    contract: Contract,
    placement: Placement,
    images: Images,
    progress: Progress | None = None,
    device: Device = CPU,
) -> dict[str, Levels]:
    """Round every layer's weight so that the layer's output changes little on some images.

    Args:
        model: folded, float32.
        images: `uint8 [n, height, width, 3]` RGB at the input size.

    Returns:
        layer -> `int8` of the weight's shape, for `Recipe.levels`. Layers that share a weight,
        convolutions that are not of maps or pad by a rule, and layers of more than 4,608 inputs
        are left out.
    """
    view = GraphView(model)
    weights = [layer.weight for layer in placement.layers]
    alone = [layer for layer in placement.layers if weights.count(layer.weight) == 1]
    found = (_Inputs.of(view, layer) for layer in alone)
    usable = [each for each in found if each is not None]
    levels = {}
    # Equal inputs are to give equal bytes, whatever the number of cores.
    with threadpool_limits(1, user_api="blas"):
        for part in _parts(usable):
            for each, moments in zip(
                part, _covariances(model, contract, part, images, device), strict=True
            ):
                levels[each.layer.name] = compensated_levels(each.weight, each.layer.axis, moments)
                if progress is not None:
                    progress("rounding weights", len(levels), len(usable))
    return levels


def compensated_levels(weight: Floats, axis: int, covariance: Doubles) -> Levels:
    """Round one weight.

    Args:
        weight: of a convolution `[out, in / groups, ...]`, or a matrix.
        axis: its output channels, 0 or (of a matrix) 1.
        covariance: `float64 [groups, n, n]` of the n inputs that an output of the group reads,
            in the weight's order.

    Returns:
        `int8` of the weight's shape, for the scales of `qdq.weight_scales`; the nearest levels
        where the covariance is none.
    """
    rows = weight if axis == 0 else weight.T
    groups, inputs = covariance.shape[:2]
    left = rows.astype(np.float64).reshape(groups, -1, inputs)
    scales = weight_scales(weight, axis).astype(np.float64).reshape(groups, -1)
    diagonal = np.einsum("gii->gi", covariance)
    damped = covariance + (_DAMPING * diagonal.mean(axis=1) + _TINY)[:, None, None] * np.eye(inputs)
    # The inputs that vary most are rounded first, while most others can still make up for them.
    order = np.argsort(-diagonal, axis=1, kind="stable")
    damped = np.take_along_axis(damped, order[:, :, None], 1)
    damped = np.take_along_axis(damped, order[:, None, :], 2)
    left = np.take_along_axis(left, order[:, None, :], 2)
    try:
        factor = np.linalg.cholesky(np.linalg.inv(damped)).swapaxes(1, 2)
    except np.linalg.LinAlgError:
        # Of inputs that never vary the covariance is what rounding left of great numbers.
        return nearest_levels(weight, axis, weight_scales(weight, axis))
    levels = np.empty_like(left)
    for place in range(inputs):
        column = left[:, :, place]
        levels[:, :, place] = np.clip(np.rint(column / scales), -LEVELS, LEVELS)
        error = (column - levels[:, :, place] * scales) / factor[:, place, place, None]
        left[:, :, place + 1 :] -= error[:, :, None] * factor[:, None, place, place + 1 :]
    found = np.empty_like(levels)
    np.put_along_axis(found, np.broadcast_to(order[:, None, :], levels.shape), levels, 2)
    like_rows = found.reshape(rows.shape).astype(np.int8)
    return like_rows if axis == 0 else like_rows.T


class _Inputs:
    """What each output of a layer reads: columns of its activation."""

    def __init__(self, layer: Layer, weight: Floats, settings: Mapping[str, Any]) -> None:
        self.layer, self.weight = layer, weight
        self._conv = layer.operator == "Conv"
        self.groups = int(settings.get("group", 1)) if self._conv else 1
        self.count = weight[0].size if layer.axis == 0 else len(weight)
        self._strides = settings.get("strides", [1, 1])
        self._dilations = settings.get("dilations", [1, 1])
        self._pads = settings.get("pads", [0, 0, 0, 0])

    @classmethod
    def of(cls, view: GraphView, layer: Layer) -> _Inputs | None:
        """None for a layer that is left to the nearest levels."""
        weight = view.floats(layer.weight)
        if weight is None:
            return None
        node = view.graph.node[layer.place]
        settings = attributes_of(node)
        # VALID pads nothing, as no pads do.
        padded_by_rule = settings.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        if layer.operator == "Conv" and (weight.ndim != 4 or padded_by_rule):
            return None
        inputs = cls(layer, weight, settings)
        return inputs if inputs.count <= _WIDEST else None

    @property
    def numbers(self) -> int:
        """Of its covariances."""
        return self.groups * self.count**2

    def columns(self, values: Floats, seed: int) -> Doubles:
        """`float64 [groups, samples, count]` of a batch of the activation."""
        generator = np.random.default_rng([seed, self.layer.place])
        if not self._conv:
            tokens = values.reshape(-1, values.shape[-1])
            most = _POSITIONS * len(values)
            if len(tokens) > most:
                tokens = tokens[generator.choice(len(tokens), most, replace=False)]
            return tokens[None].astype(np.float64)
        padded = values
        if any(self._pads):
            top, left, bottom, right = self._pads
            padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
        down, across = self._dilations
        kernel = self.weight.shape[2:]
        spans = (kernel[0] - 1) * down + 1, (kernel[1] - 1) * across + 1
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, (2, 3))
        windows = windows[:, :, :: self._strides[0], :: self._strides[1], ::down, ::across]
        images, channels, rows, columns = windows.shape[:4]
        chosen = generator.choice(rows * columns, min(rows * columns, _POSITIONS), replace=False)
        taken = windows[:, :, chosen // columns, chosen % columns]
        grouped = taken.reshape(images, self.groups, channels // self.groups, len(chosen), -1)
        ordered = grouped.transpose(1, 0, 3, 2, 4)
        return np.asarray(ordered.reshape(self.groups, images * len(chosen), -1), np.float64)


def _parts(all_inputs: Sequence[_Inputs]) -> Iterator[list[_Inputs]]:
    """Layers whose covariances are held at once."""
    part: list[_Inputs] = []
    for each in all_inputs:
        if part and sum(other.numbers for other in part) + each.numbers > _MOST_HELD:
            yield part
            part = []
        part.append(each)
    if part:
        yield part


def _covariances(
    model: onnx.ModelProto,
    contract: Contract,
    part: Sequence[_Inputs],
    images: Images,
    device: Device,
) -> list[Doubles]:
    graph_inputs = {value.name for value in model.graph.input}
    inner = [n for n in dict.fromkeys(e.layer.source for e in part) if n not in graph_inputs]
    # A session without outputs does not run.
    outputs_needed = inner or [part[0].layer.output]
    runner = Runner(with_outputs(model, outputs_needed), contract, device=device)
    products = [np.zeros((each.groups, each.count, each.count)) for each in part]
    sums = [np.zeros((each.groups, each.count)) for each in part]
    samples = [0] * len(part)
    for batch, (pictures, outputs) in enumerate(runner.batches(images)):
        for place, each in enumerate(part):
            source = each.layer.source
            columns = each.columns(
                outputs[source]
                if source in outputs
                else contract.preprocessing.normalized(pictures),
                batch,
            )
            products[place] += columns.transpose(0, 2, 1) @ columns
            sums[place] += columns.sum(axis=1)
            samples[place] += columns.shape[1]
    found = []
    for product, total, count in zip(products, sums, samples, strict=True):
        mean = total / count
        found.append(product / count - mean[:, :, None] * mean[:, None, :])
    return found
