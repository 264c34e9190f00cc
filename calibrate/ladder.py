"""Layers that quantizing hurts most, and the fewest of them to keep in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from foldcam.calibrate.placement import Placement
from foldcam.calibrate.qdq import Recipe, quantize
from foldcam.calibrate.quality import Damage
from foldcam.runtime.measurement.comparison.figures import GateFigures

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Rung:
    """One candidate.

    Attributes:
        kept: layers in float, the most sensitive first.
        bytes: of the model's file.
        figures: on the images to choose by.
        failures: what is outside the limits to choose by.
    """

    kept: tuple[str, ...]
    bytes: int
    figures: GateFigures
    failures: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For the report; speed, which differs from run to run, is reported beside it."""
        return {
            "kept": list(self.kept),
            "bytes": self.bytes,
            "figures": self.figures.document(),
            "failures": list(self.failures),
        }


def rank_layers(
    model: onnx.ModelProto,
    placement: Placement,
    recipe: Recipe,
    damage: Damage,
    progress: Progress | None = None,
    known: Mapping[str, float] | None = None,
    keep: Callable[[Mapping[str, float]], None] | None = None,
) -> list[tuple[str, float]]:
    """Layers by the damage that each does when it alone is quantized, worst first.

    Args:
        model: folded, float32.
    """
    names = [layer.name for layer in placement.layers]
    found = dict(known or {})
    for layer in placement.layers:
        if layer.name in found:
            continue
        alone = replace(recipe, kept=frozenset(names) - {layer.name})
        candidate = quantize(model, placement, alone)
        found[layer.name] = damage.of(candidate, layer.place - 1)
        if keep is not None:
            keep(found)
        if progress is not None:
            progress("sensitivity", len(found), len(names))
    # Equal ones in the graph's order.
    return sorted(((name, found[name]) for name in names), key=lambda item: -item[1])


def climb(
    ranking: Sequence[str], first: Rung, measure: Callable[[tuple[str, ...]], Rung]
) -> list[Rung]:
    """Keep more and more of the ranking's head in float until it is good enough to choose.

    The number doubles until it does, and is then halved between the last that failed and the
    first that passed. Not every number is tried: that more layers in float are never worse is
    assumed between the rungs, and measured at the one that is taken.
    """
    rungs = {0: first}
    if not first.failures:
        return [first]
    failed, count = 0, 1
    passed: int | None = None
    # All layers in float is the float model: nothing was quantized then.
    most = len(ranking) - 1
    while count <= most:
        rungs[count] = measure(tuple(ranking[:count]))
        if not rungs[count].failures:
            passed = count
            break
        failed = count
        if count == most:
            break
        count = min(2 * count, most)
    while passed is not None and passed - failed > 1:
        middle = (passed + failed) // 2
        rungs[middle] = measure(tuple(ranking[:middle]))
        if rungs[middle].failures:
            failed = middle
        else:
            passed = middle
    return [rungs[place] for place in sorted(rungs)]
