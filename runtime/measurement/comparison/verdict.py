"""What a quantized model may cost: the gate's limits, and what is outside of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Command lines show the limits without loading numpy.
    from foldcam.runtime.measurement.comparison.figures import GateFigures


@dataclass(frozen=True)
class GateLimits:
    """What passes.

    Attributes:
        recall_lost: how much recall@1 may fall at most, as a share: 0.01 is one point.
        estimate_error_added: how much the mean error of a continuous outcome may grow at most,
            as a share of the bank's range.
        speed_ratio: what the time of the float model over that of the quantized one has to
            exceed; only where it was measured.
    """

    recall_lost: float = 0.01
    estimate_error_added: float = 0.01
    heatmap_correlation_mean: float = 0.98
    heatmap_correlation_p5: float = 0.9
    speed_ratio: float = 1.0

    def to_choose_by(self, images: int) -> GateLimits:
        """Limits for choosing among candidates on other images than those that judge.

        Half of every loss: a candidate looks better on the images it was chosen by than on
        others, and one that only just passed there would often fail where it is judged. Of
        recall one image may be lost, because a part of one cannot be.

        Args:
            images: how many there are to choose by.
        """
        return replace(
            self,
            recall_lost=max(self.recall_lost / 2, 1 / images),
            estimate_error_added=self.estimate_error_added / 2,
            heatmap_correlation_mean=(1 + self.heatmap_correlation_mean) / 2,
            heatmap_correlation_p5=(1 + self.heatmap_correlation_p5) / 2,
        )


def failures_of(
    figures: GateFigures, limits: GateLimits, speed_ratio: float | None = None
) -> list[str]:
    """What is outside the limits, one sentence each.

    Args:
        speed_ratio: time of the float model over that of the quantized; None if unmeasured.
    """
    failures = []
    if not figures.finite:
        failures.append("the quantized model returned values that are not finite")
    if figures.recall is not None and figures.recall_reference is not None:
        lost = figures.recall_reference - figures.recall
        # Written so that a NaN fails; 1e-9 forgives the last bit of a difference of shares.
        if not lost <= limits.recall_lost + 1e-9:
            failures.append(
                f"recall@1 falls by {100 * lost:.2f} points, more than {100 * limits.recall_lost:g}"
            )
    if figures.estimate_error is not None and figures.estimate_error_reference is not None:
        added = figures.estimate_error - figures.estimate_error_reference
        if not added <= limits.estimate_error_added + 1e-9:
            failures.append(
                f"the estimate's error grows by {added:.3g} of the values' range, more than "
                f"{limits.estimate_error_added:g}"
            )
    if not figures.heatmaps_compared:
        failures.append(
            "no image was given the grad-weights of the reference, so that no heatmap could be "
            "compared"
        )
    else:
        for what, value, limit in (
            ("mean", figures.heatmap_correlation_mean, limits.heatmap_correlation_mean),
            ("5th percentile", figures.heatmap_correlation_p5, limits.heatmap_correlation_p5),
        ):
            if not value >= limit:
                failures.append(f"the heatmap correlation is {value:.4f} ({what}), below {limit:g}")
    if speed_ratio is not None and not speed_ratio > limits.speed_ratio:
        failures.append(
            f"it runs at {speed_ratio:.2f} times the float model's speed, and more than "
            f"{limits.speed_ratio:g} is needed"
        )
    return failures
