"""How far the other rows disagree with a row's label.

Two judges, each without the row itself: its weighted nearest neighbors (Dudani 1976, "The
distance-weighted k-nearest-neighbor rule"), and a least-squares classifier of all other rows,
whose leave-one-out scores have a closed form (Allen 1974, PRESS). Rows are sorted by the sum of
their ranks, the classifier's counted twice: neighbors see a label of several clusters, and the
classifier sees past a wrong neighbor (`foldcam evaluate audit` compares the scores).
As in confident learning (Northcutt et al. 2021) a row is judged by the label that speaks most
strongly against its own, from scores that never saw the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.audit.neighbors import Integers, Neighbors

_TEMPERATURE = 0.1
"""Of the neighbors' weights, in units of cosine."""
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Disagreement:
    """What speaks against each row's label.

    Attributes:
        nearest: `float64 [N]` in [-1, 1], the neighbors' weight of the strongest other label
            minus that of the row's own.
        fitted: `float64 [N]`, the classifier's score of the strongest other label minus that of
            the row's own.
        rival: `int64 [N]`, the label that speaks most strongly against the row's own.
    """

    nearest: npt.NDArray[np.float64]
    fitted: npt.NDArray[np.float64]
    rival: Integers

    @cached_property
    def order(self) -> Integers:
        """`int64 [N]`: all rows, those whose label is most in doubt first."""
        both = ranks(self.nearest) + 2 * ranks(self.fitted)
        return np.argsort(-both, kind="stable")

    @cached_property
    def doubted(self) -> npt.NDArray[np.bool_]:
        """`bool [N]`: both judges prefer another label."""
        return np.asarray((self.nearest > 0) & (self.fitted > 0))


class Judges:
    """Judges the labels of one set of embeddings, as they are or as they might be."""

    def __init__(self, neighbors: Neighbors) -> None:
        self._neighbors = neighbors
        weights = np.exp((neighbors.cosines - neighbors.cosines[:, :1]) / _TEMPERATURE)
        self._weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float64)
        # Centred, of mean square 1, and a constant; the penalty is that of one row.
        rows = neighbors.centred.astype(np.float64)
        self._rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        gram = self._rows.T @ self._rows + np.eye(self._rows.shape[1])
        self._hat = np.linalg.solve(gram, self._rows.T).T
        self._leverage = (self._hat * self._rows).sum(axis=1)

    def of(self, classes: Integers) -> Disagreement:
        """Judge labels.

        Args:
            classes: `int64 [N]`, each row's label as a number from 0.
        """
        voted, by_vote = self._votes(classes)
        fitted, by_fit = self._fits(classes)
        return Disagreement(voted, fitted, np.where(by_vote < 0, by_fit, by_vote))

    def _votes(self, classes: Integers) -> tuple[npt.NDArray[np.float64], Integers]:
        theirs = classes[self._neighbors.rows]
        same = theirs[:, :, None] == theirs[:, None, :]
        votes = (same * self._weights[:, None, :]).sum(axis=2)
        own = theirs == classes[:, None]
        others = np.where(own, -1.0, votes)
        best = others.argmax(axis=1)[:, None]
        other = np.take_along_axis(others, best, 1)[:, 0]
        rival = np.where(other > 0, np.take_along_axis(theirs, best, 1)[:, 0], -1)
        return np.maximum(other, 0) - (own * self._weights).sum(axis=1), rival

    def _fits(self, classes: Integers) -> tuple[npt.NDArray[np.float64], Integers]:
        sums = np.zeros((int(classes.max()) + 1, self._rows.shape[1]))
        np.add.at(sums, classes, self._rows)
        margins, rivals = np.empty(len(classes)), np.empty(len(classes), np.int64)
        for start in range(0, len(classes), _BLOCK):
            part = slice(start, start + _BLOCK)
            scores = self._hat[part] @ sums.T
            place, mine = np.arange(len(scores)), classes[part]
            own = scores[place, mine] - self._leverage[part]
            scores[place, mine] = -np.inf
            rivals[part] = scores.argmax(axis=1)
            # A leverage of 1 is a row that alone decides its score: nothing speaks for its label.
            margins[part] = (scores[place, rivals[part]] - own) / np.maximum(
                1 - self._leverage[part], 1e-9
            )
        return margins, rivals


def ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`float64 [N]` in [0, 1]: equal values have the same rank."""
    from scipy.stats import rankdata

    found: npt.NDArray[np.float64] = (rankdata(values) - 1) / max(1, len(values) - 1)
    return found


PLANTED = 0.05
"""Share of the rows that are given another label."""
FIRST = 0.15
"""Share of the rows in which they are looked for."""
_DRAWS = 20
_MOST_WORK = 1e11


@dataclass(frozen=True)
class Trial:
    """What was found of planted wrong labels.

    Attributes:
        found: mean share of the planted rows among the first `FIRST` of all rows.
        least: the same in the worst draw.
        planted: rows that were given another label in each draw.
        listed: rows that were looked at.
        draws: how often.
    """

    found: float
    least: float
    planted: int
    listed: int
    draws: int

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def listed_rows(rows: int) -> int:
    """The first `FIRST` of so many rows, one at least."""
    return max(1, int(FIRST * rows))


def plant(classes: Integers, count: int, generator: np.random.Generator) -> tuple[Any, Any]:
    """Give rows another label of the bank.

    Args:
        classes: `int64 [N]`, from 0 to C - 1, C >= 2.
        count: how many rows.
        generator: draws rows and labels.

    Returns:
        The labels, `int64 [N]`, and the rows, `int64 [count]`.
    """
    rows = generator.choice(len(classes), count, replace=False)
    labels = int(classes.max()) + 1
    changed = classes.copy()
    changed[rows] = (classes[rows] + generator.integers(1, labels, count)) % labels
    return changed, rows


def run_trial(
    judges: Judges,
    classes: Integers,
    size: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Trial | None:
    """Plant wrong labels, and count those among the first rows.

    Args:
        classes: `int64 [N]`, the bank's labels, of which some may be wrong themselves.

    Returns:
        None for a bank so large that this would take minutes.
    """
    rows, labels = len(classes), int(classes.max()) + 1
    draws = min(_DRAWS, int(_MOST_WORK / (rows * size * labels)))
    if draws < 1:
        return None
    count, listed = max(1, round(PLANTED * rows)), listed_rows(rows)
    found = []
    for draw in range(draws):
        generator = np.random.default_rng([seed, draw])
        changed, planted = plant(classes, count, generator)
        first = judges.of(changed).order[:listed]
        found.append(float(np.isin(planted, first).mean()))
        if progress is not None:
            progress(draw + 1, draws)
    return Trial(float(np.mean(found)), min(found), count, listed, draws)
