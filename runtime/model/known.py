"""Whether results are known: the score of a rule for unknown images, from a model's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.schema import KNOWN_SCORE, RUNNER_UP_SIMILARITY, SIMILARITY
from foldcam.runtime.contract.unknown import UnknownRule
from foldcam.runtime.model.result import Result


def known_scores(
    rule: UnknownRule, outputs: Mapping[str, npt.NDArray[np.generic]]
) -> npt.NDArray[np.float64]:
    """The score of each image, `float64 [N]`; the higher, the more likely it is known."""
    if rule.in_graph:
        return np.asarray(outputs[KNOWN_SCORE], np.float64)
    nearest = np.asarray(outputs[SIMILARITY], np.float64)[:, 0]
    if rule.score == "similarity":
        return nearest
    return 2.0 * nearest - np.asarray(outputs[RUNNER_UP_SIMILARITY], np.float64)


def decided(
    results: Sequence[Result],
    rule: UnknownRule | None,
    outputs: Mapping[str, npt.NDArray[np.generic]],
) -> list[Result]:
    """The results with `unknown` and `known_score`; as they are where there is no rule.

    Args:
        results: N, of one batch; one without a label, because there is no answer or because the
            outcome is continuous, is neither known nor unknown.
    """
    if rule is None:
        return list(results)
    return [
        replace(result, unknown=rule.is_unknown(score), known_score=float(score))
        if result.labels
        else result
        for result, score in zip(results, known_scores(rule, outputs).tolist(), strict=True)
    ]
