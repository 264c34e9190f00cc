"""The gate of a quantized model: what it costs against its float reference, and the verdict.

Arrays in, figures out: the workstation and the device fill them from different backends.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Maps that differ by less everywhere count as equal: where a map is nearly constant, the
# correlation is one of rounding errors.
_SAME_MAP = 1e-3


@dataclass(frozen=True)
class GateLimits:
    """What passes.

    Attributes:
        recall_lost: at most, of recall@1, as a share: 0.01 is one point.
        estimate_error_added: at most, to the mean error of a continuous outcome, as a share
            of the bank's range.
        heatmap_correlation_mean, heatmap_correlation_p5: at least.
        speed_ratio: at least, time of the float model over that of the quantized one; only
            where it was measured.
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


@dataclass(frozen=True, eq=False)
class Answered:
    """What one model answered on the gate's n images.

    Attributes:
        embedding: `[n, D]`.
        heatmap: `[n, c, h', w']` in [0, 1]; c is 2 for a continuous outcome.
        row: `[n]`, the nearest bank row that is not the image itself.
        hit: `bool [m]`, of the m images whose label is known, whether that row has it; None
            for a continuous outcome, or where no label is known.
        estimate_error: `[n]`, magnitude, as a share of the bank's range; None for labels.
    """

    embedding: Floats
    heatmap: Floats
    row: npt.NDArray[np.int64]
    hit: npt.NDArray[np.bool_] | None
    estimate_error: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class GateFigures:
    """What the quantized model costs.

    Attributes:
        images: how many.
        embedding_cosine_mean, embedding_cosine_worst: between the embeddings.
        neighbor_agreement: share of images with the same nearest row.
        recall_reference, recall: recall@1 of each against its bank; None without labels.
        recall_lost_low, recall_lost_high: 95 % interval of the first minus the second, see
            `paired_interval`; None without labels.
        estimate_error_reference, estimate_error: mean magnitude; None for labels.
        heatmaps_compared: images whose rows have the same grad-weights in both models; on
            others the heatmaps answer different questions.
        heatmap_correlation_mean, heatmap_correlation_p5, heatmap_correlation_worst: Pearson's
            over those; NaN where there are none.
        heatmap_correlation_all: mean over all images, whatever their rows.
        heat_shared_mean, heat_shared_worst: share of the heat that lies in the same places
            in both, over the compared ones: the sum of the lesser of the two maps, each
            divided by its own sum.
        heat_in_box_reference, heat_in_box: mean share of heat inside the object's box; None
            without boxes.
        finite: whether everything is.
    """

    images: int
    embedding_cosine_mean: float
    embedding_cosine_worst: float
    neighbor_agreement: float
    recall_reference: float | None
    recall: float | None
    recall_lost_low: float | None
    recall_lost_high: float | None
    estimate_error_reference: float | None
    estimate_error: float | None
    heatmaps_compared: int
    heatmap_correlation_mean: float
    heatmap_correlation_p5: float
    heatmap_correlation_worst: float
    heatmap_correlation_all: float
    heat_shared_mean: float
    heat_shared_worst: float
    heat_in_box_reference: float | None
    heat_in_box: float | None
    finite: bool

    def document(self) -> dict[str, Any]:
        """For reports."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class PerImage:
    """`[n]` each: cosine of the embeddings, correlation of the heatmaps, whether it counts."""

    cosine: npt.NDArray[np.float64]
    correlation: npt.NDArray[np.float64]
    compared: npt.NDArray[np.bool_]

    def worst(self, count: int) -> list[int]:
        """Places of the images that lost most, worst first."""
        lost = np.where(self.compared, 1 - self.correlation, 0) + (1 - self.cosine)
        return [int(place) for place in np.argsort(-np.nan_to_num(lost, nan=9.0))[:count]]


def judge(
    reference: Answered,
    got: Answered,
    same_weights: npt.NDArray[np.bool_],
    boxes: npt.NDArray[np.bool_] | None = None,
) -> tuple[GateFigures, PerImage]:
    """Compare two models on the same images.

    Args:
        reference: the float model's answers, n >= 1.
        got: the quantized model's.
        same_weights: `[n]`, whether both used the same grad-weights.
        boxes: `[n, h', w']`, which cells lie in the object's box.
    """
    cosines = np.array([_cosine(*pair) for pair in zip(reference.embedding, got.embedding,
                                                      strict=True)])  # fmt: skip
    pairs = list(zip(reference.heatmap, got.heatmap, strict=True))
    correlations = np.array([_correlation(*pair) for pair in pairs])
    shared = np.array([_shared(*pair) for pair in pairs])
    chosen = correlations[same_weights] if same_weights.any() else np.array([np.nan])
    overlaps = shared[same_weights] if same_weights.any() else np.array([np.nan])
    arrays = [got.embedding, got.heatmap]
    low, high = _recall_interval(reference.hit, got.hit)
    figures = GateFigures(
        images=len(cosines),
        embedding_cosine_mean=float(cosines.mean()),
        embedding_cosine_worst=float(cosines.min()),
        neighbor_agreement=float((reference.row == got.row).mean()),
        recall_reference=_mean(reference.hit),
        recall=_mean(got.hit),
        recall_lost_low=low,
        recall_lost_high=high,
        estimate_error_reference=_mean(reference.estimate_error),
        estimate_error=_mean(got.estimate_error),
        heatmaps_compared=int(same_weights.sum()),
        heatmap_correlation_mean=float(chosen.mean()),
        heatmap_correlation_p5=float(np.percentile(chosen, 5)),
        heatmap_correlation_worst=float(chosen.min()),
        heatmap_correlation_all=float(correlations.mean()),
        heat_shared_mean=float(overlaps.mean()),
        heat_shared_worst=float(overlaps.min()),
        heat_in_box_reference=None if boxes is None else _in_box(reference.heatmap, boxes),
        heat_in_box=None if boxes is None else _in_box(got.heatmap, boxes),
        finite=all(bool(np.isfinite(array).all()) for array in arrays),
    )
    return figures, PerImage(cosines, correlations, same_weights)


def failures_of(
    figures: GateFigures, limits: GateLimits, speed_ratio: float | None = None
) -> list[str]:
    """What is outside the limits, one sentence each.

    Args:
        figures: measured.
        limits: what passes.
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
            f"{limits.speed_ratio:g} is wanted"
        )
    return failures


def paired_interval(lost: int, gained: int, images: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares that were measured on the same images.

    Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
    proportions": Wald's interval after half an image is added to each of the four cells.

    Args:
        lost: images that only the first counts.
        gained: images that only the second counts.
        images: in all, at least 1.
    """
    b, c, n = lost + 0.5, gained + 0.5, images + 2
    middle = (b - c) / n
    half = 1.96 * float(np.sqrt(b + c - (b - c) ** 2 / n)) / n
    return max(-1.0, middle - half), min(1.0, middle + half)


def _recall_interval(
    reference: npt.NDArray[np.bool_] | None, got: npt.NDArray[np.bool_] | None
) -> tuple[float | None, float | None]:
    if reference is None or got is None or not len(got):
        return None, None
    lost, gained = int((reference & ~got).sum()), int((~reference & got).sum())
    return paired_interval(lost, gained, len(got))


def _mean(values: npt.NDArray[Any] | None) -> float | None:
    return None if values is None or not len(values) else float(values.mean())


def _cosine(one: Floats, other: Floats) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    if norms == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(a @ b / norms)


def _correlation(one: Floats, other: Floats) -> float:
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    if np.abs(a - b).max() < _SAME_MAP:
        return 1.0
    a, b = a - a.mean(), b - b.mean()
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    # One map is constant and the other is not.
    return float(a @ b / norms) if norms > 0 else 0.0


def _shared(one: Floats, other: Floats) -> float:
    sums = float(one.sum()), float(other.sum())
    if min(sums) <= 0:
        return 1.0 if sums[0] == sums[1] else 0.0
    return float(np.minimum(one / sums[0], other / sums[1]).sum())


def _in_box(heat: Floats, boxes: npt.NDArray[np.bool_]) -> float:
    first = heat[:, 0].astype(np.float64)
    total = first.sum(axis=(1, 2))
    inside = (first * boxes).sum(axis=(1, 2))
    return float((inside[total > 0] / total[total > 0]).mean()) if (total > 0).any() else 0.0
