"""The float network that is rounded: as it was exported, or equalized, whichever rounds better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from calibrate.equalize import equalized, find_pairs
from calibrate.placement import Placement, Target, find_placement
from calibrate.quality import Damage
from calibrate.statistics import Activation
from calibrate.tuning import best_recipe, choose_steps


@dataclass(frozen=True, eq=False)
class Base:
    """What is rounded.

    Attributes:
        model: folded, float32.
        placement: of that model.
        found: statistics of its activations.
        equalization: what was measured, for the report; None where nothing was tried.
        changed: whether the model is another than the exported one.
    """

    model: onnx.ModelProto
    placement: Placement
    found: Mapping[str, Activation]
    equalization: dict[str, Any] | None = None
    changed: bool = False


def try_equalizing(base: Base, damage: Damage, target: Target, gather: Any) -> Base:
    """Equalize, and keep it if the rounded network's answers are nearer to the float ones.

    Both are rounded in the quickest way, by mean squared error, with and without bias
    correction: the trial is about which network is rounded, not about how.

    Args:
        base: as exported.
        damage: measures against the exported model.
        target: whose form the steps have.
        gather: `(model, tensors) -> statistics`, of the calibration's images.
    """
    pairs = find_pairs(base.model, base.placement)
    model, changed = equalized(base.model, pairs, base.found)
    if not changed:
        return base
    placement = find_placement(model, target)
    other = Base(model, placement, gather(model, placement.tensors(model)), changed=True)
    plain, evened = (_least_damage(each, damage, target) for each in (base, other))
    told = {
        "activations": changed,
        "float": damage.of(model),
        "as_exported": plain,
        "equalized": evened,
        "taken": evened < plain,
    }
    taken = other if evened < plain else base
    return Base(taken.model, taken.placement, taken.found, told, taken.changed)


def _least_damage(base: Base, damage: Damage, target: Target) -> float:
    choices = choose_steps(base.model, base.found, damage, target, "mse")
    steps = {name: choice.step for name, choice in choices.items()}
    _, measured = best_recipe(base.model, base.placement, steps, base.found, damage)
    return min(measured.values())
