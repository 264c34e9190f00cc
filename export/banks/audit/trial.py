"""How much of what is wrong an audit finds in a bank: wrong labels are planted, and looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foldcam.export.banks.audit.disagreement import Judges
from foldcam.export.banks.audit.neighbors import Integers

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
