"""What a forward pass returned, and what it says of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from foldcam.runtime.backends import Array
from foldcam.runtime.contract.schema import (
    CONTRAST,
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    KNOWN_SCORE,
    NEIGHBOR,
    RUNNER_UP,
    RUNNER_UP_SIMILARITY,
    SIMILARITY,
    Contract,
)
from foldcam.runtime.contract.tensors import expected_tensors
from foldcam.runtime.contract.unknown import UnknownRule
from foldcam.runtime.model.model_input import Row
from foldcam.runtime.model.result import Result, Timings, without_answer
from foldcam.runtime.model.unanswered import reasons
from foldcam.runtime.system.errors import FoldcamError

_COSINES = (SIMILARITY, RUNNER_UP_SIMILARITY)
_JUDGED = (HEATMAP, HEATMAP_LOWER, ESTIMATE, CONTRIBUTION, CONTRAST)
"""Outputs in which a number that is not finite is no answer; beside embedding and similarity."""


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """What the backend returned for a batch."""

    rows: Sequence[Row]
    outputs: dict[str, Array]
    milliseconds: float
    contract: Contract


def results_of(done: ForwardPass, rule: UnknownRule | None) -> list[Result]:
    """What a forward pass says, one result per row; `Result.error` where that is nothing.

    Args:
        rule: by which an image is unknown; None answers with the nearest label.
    """
    rows, contract = done.rows, done.contract
    if not rows:
        return []
    inference_ms = done.milliseconds / len(rows)
    outputs = _promised(contract, done.outputs, len(rows))
    wrong = _wrong_rows(outputs, cosines=contract.scores is None)
    right = [reason is None for reason in wrong]
    _check_rows(contract, outputs[NEIGHBOR][right])
    if RUNNER_UP in outputs:
        _check_rows(contract, outputs[RUNNER_UP][right])
    # Rounding may go beyond what a cosine can be; a classifier's scores may be any number.
    bounded = () if contract.scores else _COSINES
    outputs = {
        name: np.clip(array, -1.0, 1.0) if name in bounded else array
        for name, array in outputs.items()
    }
    results = [
        _result(contract, outputs, index, row, inference_ms, answered)
        for index, (row, answered) in enumerate(zip(rows, right, strict=True))
    ]
    results = [
        result if reason is None else without_answer(result, reason)
        for result, reason in zip(results, wrong, strict=True)
    ]
    return decided(results, rule, outputs)


def _promised(contract: Contract, outputs: dict[str, Array], count: int) -> dict[str, Array]:
    """The outputs of the contract. Declared shapes may be open: only now are they known."""
    promised = expected_tensors(contract)[1]
    for tensor in promised:
        name, shape = tensor.name, (count, *tensor.shape[1:])
        if outputs[name].shape != shape:
            raise FoldcamError(
                f"The model returned {name!r} of shape {list(outputs[name].shape)} where its "
                f"metadata promise {list(shape)}: export it again."
            )
    return {tensor.name: outputs[tensor.name] for tensor in promised}


def _check_rows(contract: Contract, rows: Array) -> None:
    """Of right answers alone: where the numbers are none, a library may return any row."""
    known = contract.bank.rows
    outside = rows[(rows < 0) | (rows >= known)]
    if outside.size:
        raise FoldcamError(
            f"The model returned bank row {int(outside.max())} and its metadata describe a "
            f"bank of {known}: graph and metadata disagree, so export it again."
        )


def _result(
    contract: Contract,
    outputs: dict[str, Array],
    index: int,
    row: Row,
    inference_ms: float,
    answered: bool,
) -> Result:
    """One row of the outputs; without an answer, no row of the bank is looked up."""
    recipe, continuous = contract.preprocessing, contract.outcome is not None
    labelled = answered and not continuous
    runner_up = int(outputs[RUNNER_UP][index]) if RUNNER_UP in outputs else None

    def map_of(name: str) -> npt.NDArray[np.float32] | None:
        return outputs[name][index, 0] if name in outputs else None

    return Result(
        embedding=outputs[EMBEDDING][index],
        heatmap=outputs[HEATMAP][index, 0],
        neighbors=outputs[NEIGHBOR][index],
        similarities=outputs[SIMILARITY][index],
        labels=[contract.label_of(int(each)) for each in outputs[NEIGHBOR][index]]
        if labelled
        else [],
        affine=row.affine,
        input_wh=(recipe.width, recipe.height),
        frame_wh=row.frame_wh,
        timings=Timings(row.preprocess_ms, inference_ms),
        estimate=float(outputs[ESTIMATE][index]) if continuous else None,
        heatmap_lower=map_of(HEATMAP_LOWER),
        box=row.box,
        contribution=map_of(CONTRIBUTION),
        contrast=map_of(CONTRAST),
        runner_up=runner_up,
        runner_up_label=None if runner_up is None or not labelled else contract.label_of(runner_up),
        runner_up_similarity=float(outputs[RUNNER_UP_SIMILARITY][index])
        if RUNNER_UP_SIMILARITY in outputs
        else None,
        scores=contract.scores,
    )


def _wrong_rows(outputs: dict[str, Array], *, cosines: bool) -> list[str | None]:
    similarities = outputs[SIMILARITY]
    if RUNNER_UP_SIMILARITY in outputs:
        similarities = np.concatenate(
            [similarities, outputs[RUNNER_UP_SIMILARITY][:, None]], axis=1
        )
    maps = [outputs[name] for name in _JUDGED if name in outputs]
    return reasons(outputs[EMBEDDING], similarities, maps, cosines=cosines)


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
