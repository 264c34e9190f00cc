"""From scores to a threshold, and what it accepts of labels that the bank does not have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.unknown.rows import Doubles, Integers, Mask, Rows, RowScore
from foldcam.runtime.system.errors import FoldcamError

# Two libraries round a cosine differently by less.
_ROUNDING = 1e-5
_MOST_FOLDS = 10
# Of the bank's own rows that are left out.
_MOST_ROWS = 2000


def threshold_for(known: npt.ArrayLike, accept: float) -> float:
    """The highest threshold that new known images pass with a probability of at least `accept`.

    Split conformal prediction (Vovk, Gammerman and Shafer 2005): below the k-th smallest of n
    scores lies a new one of the same kind with a probability of at most k / (n + 1).

    Args:
        known: scores of n known images that the rule has not met, finite.
        accept: share, in (0, 1).

    Returns:
        A number a little below the score that it accepts, so that another library's rounding
        moves no image across it; equal scores are accepted together.
    """
    scores = np.sort(np.asarray(known, np.float64))
    rejected = math.floor((len(scores) + 1) * (1.0 - accept) + 1e-9)
    if rejected < 1:
        needed = math.ceil(1.0 / (1.0 - accept) - 1e-9) - 1
        raise FoldcamError(
            f"To accept {accept:.4g} of known images the threshold needs at least {needed} of "
            f"them, and there are {len(scores)}: give more, or a smaller --accept."
        )
    least = float(scores[rejected - 1])
    below = scores[:rejected][scores[:rejected] < least]
    # Where all of them are equal, or there is but one, none lies below.
    halfway = (float(below[-1]) + least) / 2.0 if len(below) else -math.inf
    return max(halfway, least - _ROUNDING)


def share_accepted(scores: npt.ArrayLike, threshold: float) -> float:
    """The share of scores that reach a threshold; a score that is NaN does not."""
    return float(np.mean(np.asarray(scores) >= threshold))


def within_reach(accept: float, images: int) -> float:
    """The share that so many known images can be chosen for: all of them, where they are few."""
    return min(accept, images / (images + 1))


class LeftOut:
    """Scores of images against a bank without them.

    Args:
        rows: the bank's.
        units: `[Q, D]`, images of norm 1 that are not in the bank; None takes the bank's own
            rows, a tenth of them at a time compared with the others.
        labels: `int64 [Q]`, their labels; with `units`.

    Attributes:
        labels: `int64 [Q]`.
    """

    def __init__(
        self,
        rows: Rows,
        units: npt.NDArray[np.floating] | None = None,
        labels: Integers | None = None,
    ) -> None:
        self._rows = rows
        self._part: Integers | None = None
        if units is None or labels is None:
            repeated = np.bincount(rows.labels, minlength=len(rows.names)) > 1
            chosen = np.flatnonzero(repeated[rows.labels])
            chosen = chosen[:: max(1, math.ceil(len(chosen) / _MOST_ROWS))]
            self._chosen, self.labels, self._units = chosen, rows.labels[chosen], rows.units[chosen]
            self._part = np.arange(len(chosen)) % _MOST_FOLDS
        else:
            self.labels, self._units = labels, units

    def scores(self, score: RowScore, left_out: Sequence[int] = ()) -> Doubles | None:
        """`float64 [Q]`; None where the rows cannot say.

        Args:
            score: of the images against rows.
            left_out: labels whose rows are left out of the bank as well.
        """
        kept = ~np.isin(self._rows.labels, list(left_out))
        if not kept.any():
            return None
        if self._part is None:
            return score(self._rows.kept(kept), self._units)
        found = np.empty(len(self._units))
        for part in np.unique(self._part):
            mine = self._part == part
            others = kept.copy()
            others[self._chosen[mine]] = False
            values = score(self._rows.kept(others), self._units[mine]) if others.any() else None
            if values is None:
                return None
            found[mine] = values
        return found


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold of labels that are left out.

    Attributes:
        known: scores of images whose label the bank keeps.
        unknown: scores of images whose label it does not.
        places: `bool [Q]`, which images are the unknown ones.
    """

    known: Doubles
    unknown: Doubles
    places: Mask

    def threshold(self, accept: float) -> float:
        """As `threshold_for`; of too few known images, the one that accepts all of them."""
        return threshold_for(self.known, within_reach(accept, len(self.known)))


def label_folds(labels: Integers, seed: int = 0) -> list[Integers]:
    """The labels in at most ten groups, drawn, so that each label is unknown once."""
    present = np.unique(labels)
    drawn = np.random.default_rng(seed).permutation(present)
    return [
        np.asarray(part, np.int64) for part in np.array_split(drawn, min(_MOST_FOLDS, len(drawn)))
    ]


def leave_labels_out(images: LeftOut, score: RowScore, folds: Sequence[Integers]) -> list[Fold]:
    """Known and unknown scores where each group of labels is left out of the bank."""
    found = []
    for group in folds:
        scores = images.scores(score, group.tolist())
        unknown = np.isin(images.labels, group)
        if scores is not None and unknown.any() and not unknown.all():
            found.append(Fold(scores[~unknown], scores[unknown], unknown))
    return found


def auroc(known: Doubles, unknown: Doubles) -> float:
    """The probability that a known image has a higher score than an unknown one; ties half."""
    from sklearn.metrics import roc_auc_score

    truth = np.r_[np.ones(len(known)), np.zeros(len(unknown))]
    return float(roc_auc_score(truth, np.r_[known, unknown]))
