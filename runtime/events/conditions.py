"""Whether the conditions of a rule hold on a frame."""

from __future__ import annotations

from foldcam.runtime.drawing.frame_results import FrameResults
from foldcam.runtime.events.language import Condition, LabelIs, Rule, Threshold
from foldcam.runtime.model import Result


def holds(rule: Rule, item: FrameResults, begun: bool) -> Result | None:
    """The first region in which all conditions hold; None if there is none.

    Args:
        rule: the conditions.
        item: the frame with its regions.
        begun: whether they held on the frame before: then a number has to go back past its
            threshold by the rule's hysteresis.
    """
    slack = rule.hysteresis if begun else 0.0
    for result in item.results:
        # Not even `label is not owl` holds of a region without a label.
        if not result.valid:
            continue
        if all(_holds(condition, item, result, slack) for condition in rule.conditions):
            return result
    return None


def heat_share(item: FrameResults, box: tuple[int, int, int, int]) -> float:
    """The share of a frame's heat, in [0, 1], that lies in a box; 0 of a frame without heat.

    Args:
        item: the frame.
        box: `(x, y, width, height)` in pixels; what lies outside of the frame holds no heat.
    """
    heat = item.heat
    total = float(heat.sum(dtype="float64"))
    x, y, width, height = box
    inside = float(heat[y : y + height, x : x + width].sum(dtype="float64"))
    return inside / total if total > 0.0 else 0.0


def _holds(condition: Condition, item: FrameResults, result: Result, slack: float) -> bool:
    if isinstance(condition, LabelIs):
        return bool(result.labels) and (result.labels[0] in condition.labels) is condition.wanted
    value = _quantity(condition, item, result)
    # A number that is missing or not finite is neither above nor below.
    if value is None:
        return False
    if condition.above:
        return value > condition.value - slack
    return value < condition.value + slack


def _quantity(condition: Threshold, item: FrameResults, result: Result) -> float | None:
    if condition.quantity == "similarity":
        return float(result.similarities[0])
    if condition.quantity == "estimate":
        return result.estimate
    assert condition.box is not None
    return heat_share(item, condition.box)
