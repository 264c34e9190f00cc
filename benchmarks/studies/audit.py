"""Which score finds wrong labels in a bank: each is tried on labels that were planted.

The audit's score was chosen by trials on banks of birds and faces, training and test halves and
several networks: what is measured on them is a little flattering.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.bootstrap import bootstrap
from foldcam.export.banks.audit.audit import labels_to_audit
from foldcam.export.banks.audit.disagreement import (
    FIRST,
    PLANTED,
    Disagreement,
    Judges,
    listed_rows,
    plant,
    ranks,
)
from foldcam.export.banks.audit.neighbors import Integers, Neighbors, find_neighbors
from foldcam.export.banks.bank import Bank

Doubles = npt.NDArray[np.float64]
_ENOUGH = 0.9


def class_means(neighbors: Neighbors, classes: Integers) -> Doubles:
    """`float64 [N]`: cosine to the nearest other label's mean, less that to the own one's.

    The own label's mean is without the row itself.
    """
    rows = neighbors.centred.astype(np.float64)
    sums = np.zeros((int(classes.max()) + 1, rows.shape[1]))
    np.add.at(sums, classes, rows)
    own = sums[classes] - rows
    cosines = rows @ _unit(sums).T
    cosines[np.arange(len(rows)), classes] = -np.inf
    found: Doubles = cosines.max(axis=1) - (rows * _unit(own)).sum(axis=1)
    return found


def _unit(rows: Doubles) -> Doubles:
    unit: Doubles = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


Score = Callable[[Disagreement, Neighbors, Integers], Doubles]
SCORES: Mapping[str, Score] = {
    "random": lambda *given: np.random.default_rng(0).random(len(given[2])),
    "neighbors": lambda found, *_: found.nearest,
    "class means": lambda _, neighbors, classes: class_means(neighbors, classes),
    "classifier": lambda found, *_: found.fitted,
    "neighbors + classifier": lambda found, *_: ranks(found.nearest) + ranks(found.fitted),
    "neighbors + class means": lambda found, neighbors, classes: (
        ranks(found.nearest) + ranks(class_means(neighbors, classes))
    ),
    "neighbors + 2 classifier (chosen)": lambda found, *_: (
        ranks(found.nearest) + 2 * ranks(found.fitted)
    ),
}


def try_scores(bank: Bank, draws: int, seed: int = 0) -> dict[str, Any]:
    """Plant wrong labels in a bank, and look for them by each score.

    Returns:
        For JSON: by score the mean share of planted rows among the first rows with its interval,
        and the share of draws that found nine of ten.
    """
    labels, classes = labels_to_audit(bank)
    neighbors = find_neighbors(bank.embeddings)
    judges = Judges(neighbors)
    count, first = max(1, round(PLANTED * bank.rows)), listed_rows(bank.rows)
    shares: dict[str, list[float]] = {name: [] for name in SCORES}
    for draw in range(draws):
        changed, planted = plant(classes, count, np.random.default_rng([seed, draw]))
        found = judges.of(changed)
        for name, score in SCORES.items():
            order = np.argsort(-score(found, neighbors, changed), kind="stable")
            shares[name].append(float(np.isin(planted, order[:first]).mean()))
    right = float((classes[neighbors.rows[:, 0]] == classes).mean())
    return {
        "rows": bank.rows,
        "labels": len(labels),
        "planted": count,
        "first": first,
        "draws": draws,
        "nearest_has_the_label": right,
        "scores": {
            name: {
                **vars(bootstrap(found)),
                "nine_of_ten": float((np.asarray(found) >= _ENOUGH - 1e-9).mean()),
            }
            for name, found in shares.items()
        },
    }


def page(document: Mapping[str, Any]) -> str:
    """The study as a page."""
    return (
        f"Wrong labels planted in {PLANTED:.0%} of a bank's rows, and the share of them among the "
        f"first {FIRST:.0%} of the rows by each score: mean over draws (95 % interval of the "
        "mean), and the share of draws in which nine of ten were found. *Nearest right*: rows "
        f"whose nearest other row has their label.\n\n{markdown_table(document)}\n"
    )


def markdown_table(document: Mapping[str, Any]) -> str:
    """One line for each bank."""
    rows = []
    for name, bank in document["banks"].items():
        scores = [
            f"{markdown.interval(score)}, {score['nine_of_ten']:.0%}"
            for score in bank["scores"].values()
        ]
        size = f"{bank['rows']}, {bank['labels']}"
        rows.append([name, size, f"{bank['nearest_has_the_label']:.0%}", *scores])
    return markdown.table(["bank", "rows, labels", "nearest right", *SCORES], rows)
