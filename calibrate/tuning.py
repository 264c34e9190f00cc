"""Choosing steps and biases by what they do to the answers, not by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.calibrate.graph import Floats, GraphView
from foldcam.calibrate.placement import Layer, Placement, Target
from foldcam.calibrate.qdq import (
    LEVELS,
    UNSIGNED_LEVELS,
    Levels,
    Recipe,
    Step,
    quantize,
    quantize_activation,
    step_for,
)
from foldcam.calibrate.quality import Damage
from foldcam.calibrate.statistics import METHODS, Activation, Method, clipped_share, thresholds_of

Progress = Callable[[str, int, int], None]

Doubles = npt.NDArray[np.float64]

_SCALE_INPUT = "calibrate.scale"
# Thresholds nearer to each other than this are one: rounding to 127 levels is coarser.
_SAME = 0.005


@dataclass(frozen=True)
class Choice:
    """The threshold of one activation.

    Attributes:
        method: the first of those that gave the threshold.
        damage: what rounding this activation alone costs, see `quality.Damage`; by method.
            Empty where the method was not a matter of choice.
        clipped: share of the values beyond the threshold.
    """

    tensor: str
    method: Method
    threshold: float
    step: Step
    damage: Mapping[str, float]
    clipped: float


def choose_steps(
    model: onnx.ModelProto,
    found: Mapping[str, Activation],
    damage: Damage,
    target: Target,
    method: Method | None = None,
    progress: Progress | None = None,
    known: Mapping[str, Choice] | None = None,
    keep: Callable[[Mapping[str, Choice]], None] | None = None,
) -> dict[str, Choice]:
    """A threshold for each activation.

    Args:
        model: folded, float32.
        method: for all; None tries every method on each activation and takes the one with the
            least damage. Of equals the first of `METHODS`.
    """
    chosen = {tensor: choice for tensor, choice in (known or {}).items() if tensor in found}
    places = GraphView(model).places
    # In the graph's order, so that what lies before an activation is run once for all of them.
    for tensor in sorted(set(found) - set(chosen), key=lambda name: places.get(name, -1)):
        activation = found[tensor]
        negative = activation.least < 0
        unsigned = target == "cpu" and not negative
        candidates = thresholds_of(activation, UNSIGNED_LEVELS if unsigned else LEVELS)
        steps = {
            name: step_for(threshold, negative=negative, target=target)
            for name, threshold in candidates.items()
        }
        measured = {}
        if method is None:
            measured = _damages(model, tensor, steps, damage, places.get(tensor, -1))
        best: Method = _least(measured) if method is None else method
        chosen[tensor] = Choice(
            tensor,
            best,
            candidates[best],
            steps[best],
            measured,
            clipped_share(activation, candidates[best]),
        )
        if keep is not None:
            keep(chosen)
        if progress is not None:
            progress("thresholds", len(chosen), len(found))
    return {tensor: chosen[tensor] for tensor in found}


def _damages(
    model: onnx.ModelProto, tensor: str, steps: Mapping[Method, Step], damage: Damage, place: int
) -> dict[str, float]:
    """What each step does to one activation alone; steps that are one are measured once."""
    apart: dict[Method, Method] = {}
    for name, step in steps.items():
        apart[name] = next(
            (n for n in apart.values() if abs(steps[n].scale - step.scale) <= _SAME * step.scale),
            name,
        )
    tried = list(dict.fromkeys(apart.values()))
    candidate = quantize_activation(model, tensor, _SCALE_INPUT, steps[tried[0]])
    settings = [{_SCALE_INPUT: np.asarray(steps[name].scale, np.float32)} for name in tried]
    measured = dict(zip(tried, damage.each(candidate, settings, place), strict=True))
    return {name: measured[same] for name, same in apart.items()}


def bias_corrections(
    model: onnx.ModelProto, placement: Placement, found: Mapping[str, Activation], recipe: Recipe
) -> dict[str, Floats]:
    """What rounding the weights takes from each layer's mean output, to be added to its bias.

    `E[(W - Wq) x] = (W - Wq) E[x]` (Nagel et al. 2019, "Data-Free Quantization Through Weight
    Equalization and Bias Correction", with measured means); the borders, where padding
    replaces values, are not treated apart.

    Args:
        model: folded, float32.

    Returns:
        layer -> `float32 [channels]`; for Conv and Gemm, which have a bias.
    """
    view = GraphView(model)
    corrections = {}
    for layer in placement.layers:
        weight = view.floats(layer.weight)
        if weight is None or layer.operator == "MatMul":
            continue
        if layer.operator == "Conv" and weight.ndim != 4:
            # Means are kept per channel for maps only.
            continue
        levels, scales = recipe.rounded(layer, weight)
        shape = [1] * weight.ndim
        shape[layer.axis] = -1
        lost = weight.astype(np.float64) - levels * scales.astype(np.float64).reshape(shape)
        corrections[layer.name] = _shift(layer, lost, found[layer.source].channel_mean)
    return corrections


def best_recipe(
    model: onnx.ModelProto,
    placement: Placement,
    steps: Mapping[str, Step],
    found: Mapping[str, Activation],
    damage: Damage,
    *,
    correct_biases: bool = True,
    levels: Mapping[str, Levels] | None = None,
) -> tuple[Recipe, dict[str, float]]:
    """The recipe that does the least damage: rounded in several ways, with and without biases.

    Args:
        model: folded, float32.
    """
    recipes = {"as_rounded": Recipe(steps)}
    if levels is not None:
        recipes["gptq"] = Recipe(steps, levels=levels)
    if correct_biases:
        for name, plain in list(recipes.items()):
            biases = bias_corrections(model, placement, found, plain)
            corrected = "bias_corrected" if name == "as_rounded" else f"{name}_bias_corrected"
            recipes[corrected] = replace(plain, biases=biases)
    measured = {
        name: damage.of(quantize(model, placement, recipe)) for name, recipe in recipes.items()
    }
    return recipes[min(measured, key=lambda name: measured[name])], measured


def _least(measured: Mapping[str, float]) -> Method:
    return min(METHODS, key=lambda name: measured[name])


def _shift(layer: Layer, lost: Doubles, mean: Doubles) -> Floats:
    if layer.operator == "Gemm":
        product = lost @ mean if layer.axis == 0 else mean @ lost
        return np.asarray(product, np.float32)
    kernels = lost.reshape(*lost.shape[:2], -1).sum(axis=2)
    outputs, inputs = kernels.shape
    groups = len(mean) // inputs
    # Outputs of group g read the inputs of group g.
    means = np.repeat(mean.reshape(groups, inputs), outputs // groups, axis=0)
    return np.asarray((kernels * means).sum(axis=1), np.float32)
