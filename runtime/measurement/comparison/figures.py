"""The numbers that compare two models' answers on the same images.

Arrays in, figures out: the gates, the self-test, `foldcam verify` and calibration fill them from
different libraries and judge them by limits of their own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

SAME_MAP = 1e-3
"""Maps that differ by no more anywhere count as equal: where a map is nearly constant, the
correlation is one of rounding errors. A map without a greater value is blank."""
SMALL_EVIDENCE = 0.01
"""A map whose positive contributions are a smaller share of its strongest one shows rounding: INT8
has 127 steps of a sign, and a heatmap stretches what is left to its full range."""
# An image this near to a bank row is that row.
_OWN_ROW = 0.9999


@dataclass(frozen=True)
class Agreement:
    """How alike the embeddings and heatmaps of two models are.

    Attributes:
        heatmaps_compared: images whose rows have the same grad-weights in both models; on
            others the heatmaps answer different questions.
        heatmaps_blank: how many of those are blank in both models. They agree, and the
            correlations are those of the others. Blank in one alone counts as a correlation of 0.
        heatmap_correlation_mean, heatmap_correlation_p5, heatmap_correlation_worst: Pearson's
            correlation, its mean, 5th percentile and least value. 1 where all maps are blank in
            both, NaN where none can be compared.
    """

    embedding_cosine_mean: float
    embedding_cosine_worst: float
    heatmaps_compared: int
    heatmaps_blank: int
    heatmap_correlation_mean: float
    heatmap_correlation_p5: float
    heatmap_correlation_worst: float


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
        contribution: `[n, h', w']`, signed; None for a model without this output.
    """

    embedding: Floats
    heatmap: Floats
    row: Integers
    hit: Booleans | None
    estimate_error: Doubles | None = None
    contribution: Floats | None = None


@dataclass(frozen=True)
class GateFigures(Agreement):
    """What a quantized model costs.

    Attributes:
        neighbor_agreement: share of images with the same nearest row.
        recall_reference, recall: recall@1 of each against its bank; None without labels.
        recall_lost_low, recall_lost_high: 95 % interval of the first minus the second, see
            `paired_interval`; None without labels.
        estimate_error_reference, estimate_error: mean magnitude; None for labels.
        heatmap_correlation_all: mean over all images, whatever their rows; maps that are blank
            in both count as 1.
        heat_shared_mean, heat_shared_worst: share of the heat that lies in the same places
            in both, over the compared ones: the sum of the lesser of the two maps, each
            divided by its own sum.
        heat_in_box_reference, heat_in_box: mean share of heat inside the object's box; None
            without boxes.
        contribution_correlation_mean, contribution_correlation_p5,
            contribution_correlation_worst: as of the heatmaps, of the signed contributions of
            the compared images; None where one of the models has none.
    """

    images: int
    neighbor_agreement: float
    recall_reference: float | None
    recall: float | None
    recall_lost_low: float | None
    recall_lost_high: float | None
    estimate_error_reference: float | None
    estimate_error: float | None
    heatmap_correlation_all: float
    heat_shared_mean: float
    heat_shared_worst: float
    heat_in_box_reference: float | None
    heat_in_box: float | None
    finite: bool
    contribution_correlation_mean: float | None
    contribution_correlation_p5: float | None
    contribution_correlation_worst: float | None

    def document(self) -> dict[str, Any]:
        """The figures by name, for reports."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class PerImage:
    """`[n]` each: cosine of the embeddings, correlation of the heatmaps, whether it counts."""

    cosine: Doubles
    correlation: Doubles
    compared: Booleans

    def worst(self, count: int) -> list[int]:
        """Places of the images that lost most, worst first."""
        lost = np.where(self.compared, 1 - self.correlation, 0) + (1 - self.cosine)
        return [int(place) for place in np.argsort(-np.nan_to_num(lost, nan=9.0))[:count]]


def cosines(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> Doubles:
    """Cosine of each pair of rows, `float64 [n]`; 1 where both are zero, 0 where one is.

    Args:
        ours, theirs: `[n, D]`. Where a value is not finite, the result is NaN.
    """
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found = np.einsum("nd,nd->n", a, b) / np.where(norms == 0, 1, norms)
    return np.where(a.any(axis=1) | b.any(axis=1), found, 1.0)


def map_correlations(
    ours: npt.NDArray[Any], theirs: npt.NDArray[Any], same: float = SAME_MAP
) -> tuple[Doubles, Booleans]:
    """Pearson's correlation of each pair of maps over all of their values.

    Args:
        ours, theirs: `[n, ...]`. Where a value is not finite, the correlation is NaN.

    Returns:
        `float64 [n]`: 1 where the maps are equal, 0 where one alone is constant; and `bool [n]`:
        whether both are blank.
    """
    a, b = (x.astype(np.float64).reshape(len(x), -1) for x in (ours, theirs))
    with np.errstate(invalid="ignore", over="ignore"):
        equal = np.abs(a - b).max(axis=1) <= same
        blank = np.maximum(np.abs(a), np.abs(b)).max(axis=1) <= same
        a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found = np.einsum("np,np->n", a, b) / np.where(norms == 0, 1, norms)
    return np.where(equal | blank, 1.0, found), np.asarray(blank)


def without_evidence(contribution: npt.NDArray[Any]) -> Booleans:
    """`bool [n]`: whether next to nothing of a map speaks for the answer; see `SMALL_EVIDENCE`."""
    flat = contribution.reshape(len(contribution), -1)
    return np.asarray(flat.max(axis=1) <= SMALL_EVIDENCE * np.abs(flat).max(axis=1))


def spread_of(correlation: Doubles, blank: Booleans) -> tuple[float, float, float]:
    """Mean, 5th percentile and least of the correlations that count.

    Returns:
        1 where all maps are blank in both models, NaN where there is none.
    """
    shown = correlation[~blank]
    if not len(shown):
        shown = np.array([1.0 if len(blank) else np.nan])
    return float(shown.mean()), float(np.percentile(shown, 5)), float(shown.min())


def agreement(cosine: Doubles, correlation: Doubles, blank: Booleans) -> Agreement:
    """Sum up what `cosines` gave for all images and `map_correlations` for the compared ones."""
    mean, p5, worst = spread_of(correlation, blank)
    return Agreement(
        embedding_cosine_mean=float(cosine.mean()),
        embedding_cosine_worst=float(cosine.min()),
        heatmaps_compared=len(blank),
        heatmaps_blank=int(blank.sum()),
        heatmap_correlation_mean=mean,
        heatmap_correlation_p5=p5,
        heatmap_correlation_worst=worst,
    )


def compared_text(compared: int, blank: int) -> str:
    """How many heatmaps were compared, for a line of text; see `Agreement`."""
    apart = f", {blank} of them blank in both" if blank else ""
    return f"{compared} images with the same grad-weights{apart}"


def same_rows(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> Booleans:
    """`bool [n]`: whether both, `[n, k]`, name the same rows, in whatever order."""
    return np.asarray((np.sort(ours, axis=1) == np.sort(theirs, axis=1)).all(axis=1))


def own_rows(rows: npt.NDArray[Any], similarity: Floats) -> Integers:
    """`[n]`: the bank row that the image itself is, or -1.

    Images of the bank would find themselves, whatever became of the rest.

    Args:
        rows, similarity: `[n, k]`, the reference's neighbors, nearest first.
    """
    return np.where(similarity[:, 0] > _OWN_ROW, rows[:, 0], -1).astype(np.int64)


def nearest_other(rows: npt.NDArray[Any], own: Integers) -> Integers:
    """`[n]`: the nearest row that is not the image itself, as far as rows are reported.

    Args:
        rows: `[n, k]`, nearest first.
        own: `[n]`, see `own_rows`.
    """
    others = (rows != own[:, None]).argmax(axis=1)
    return np.take_along_axis(rows, others[:, None], 1)[:, 0].astype(np.int64)


def compare_answers(
    reference: Answered, got: Answered, same_weights: Booleans, boxes: Booleans | None = None
) -> tuple[GateFigures, PerImage]:
    """Compare two models on the same images.

    Args:
        reference: the float model's answers, n >= 1.
        same_weights: `[n]`, whether both used the same grad-weights.
        boxes: `[n, h', w']`, which cells lie in the object's box.
    """
    cosine = cosines(reference.embedding, got.embedding)
    correlation, blank = map_correlations(reference.heatmap, got.heatmap)
    pairs = zip(reference.heatmap, got.heatmap, strict=True)
    shared = np.array([_shared(*pair) for pair in pairs])
    ours, theirs = reference.contribution, got.contribution
    contributions: tuple[float | None, float | None, float | None] = (None, None, None)
    finite = bool(np.isfinite(got.embedding).all() and np.isfinite(got.heatmap).all())
    if ours is not None and theirs is not None:
        finite = finite and bool(np.isfinite(theirs).all())
        # In units of cosine, which may be of any size: only maps of zeros are blank.
        found, empty = map_correlations(ours, theirs, same=0)
        if same_weights.any():
            contributions = spread_of(found[same_weights], empty[same_weights])
        if reference.heatmap.shape[1] == 1:
            blank = blank | (without_evidence(ours) & without_evidence(theirs))
            correlation, shared = np.where(blank, 1.0, correlation), np.where(blank, 1.0, shared)
    overlaps = shared[same_weights] if same_weights.any() else np.array([np.nan])
    low, high = _recall_interval(reference.hit, got.hit)
    figures = GateFigures(
        **vars(agreement(cosine, correlation[same_weights], blank[same_weights])),
        images=len(cosine),
        neighbor_agreement=float((reference.row == got.row).mean()),
        recall_reference=_mean(reference.hit),
        recall=_mean(got.hit),
        recall_lost_low=low,
        recall_lost_high=high,
        estimate_error_reference=_mean(reference.estimate_error),
        estimate_error=_mean(got.estimate_error),
        heatmap_correlation_all=float(correlation.mean()),
        heat_shared_mean=float(overlaps.mean()),
        heat_shared_worst=float(overlaps.min()),
        heat_in_box_reference=None if boxes is None else _in_box(reference.heatmap, boxes),
        heat_in_box=None if boxes is None else _in_box(got.heatmap, boxes),
        finite=finite,
        contribution_correlation_mean=contributions[0],
        contribution_correlation_p5=contributions[1],
        contribution_correlation_worst=contributions[2],
    )
    return figures, PerImage(cosine, correlation, same_weights)


def paired_interval(lost: int, gained: int, images: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares that were measured on the same images.

    Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
    proportions": Wald's interval after half an image is added to each of the four cells.

    Args:
        images: in all, at least 1.
    """
    b, c, n = lost + 0.5, gained + 0.5, images + 2
    middle = (b - c) / n
    half = 1.96 * float(np.sqrt(b + c - (b - c) ** 2 / n)) / n
    return max(-1.0, middle - half), min(1.0, middle + half)


def _recall_interval(
    reference: Booleans | None, got: Booleans | None
) -> tuple[float | None, float | None]:
    if reference is None or got is None or not len(got):
        return None, None
    lost, gained = int((reference & ~got).sum()), int((~reference & got).sum())
    return paired_interval(lost, gained, len(got))


def _mean(values: npt.NDArray[Any] | None) -> float | None:
    return None if values is None or not len(values) else float(values.mean())


def _shared(one: Floats, other: Floats) -> float:
    sums = float(one.sum()), float(other.sum())
    if min(sums) <= 0:
        return 1.0 if sums[0] == sums[1] else 0.0
    return float(np.minimum(one / sums[0], other / sums[1]).sum())


def _in_box(heat: Floats, boxes: Booleans) -> float:
    first = heat[:, 0].astype(np.float64)
    total = first.sum(axis=(1, 2))
    inside = (first * boxes).sum(axis=(1, 2))
    return float((inside[total > 0] / total[total > 0]).mean()) if (total > 0).any() else 0.0
