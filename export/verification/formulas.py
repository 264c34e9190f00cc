"""What a folded graph must return, computed from the method's formulas in numpy.

    e          = embedding / |embedding|
    similarity = e . bank rows
    a          = mean of the grad-weights of the `transfer` most similar rows
    signed_p   = a . (S_p - mean S_p), or a . S_p without a baseline
    heatmap    = relu(signed) / max relu(signed), or over max|signed| where both signs are shown
    contribution = signed / |z|
    contrast     = contribution - the same with the runner-up's grad-weights; the runner-up is the
                   most similar row of another label than the nearest row's
    estimate   = softmax(similarity / tau) . values

and of a classifier, whose rows are its classes:

    similarity = its scores
    rows       = the classes of the greatest logits
    signed_p   = a . S_p, with the grad-weights of the best class, in units of the logit

None of it goes through the graph, so that a mistake there is not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank, BankOutcome
from foldcam.export.banks.objectives.kernel import kernel_estimates
from foldcam.export.grafting.in_graph import StoredBank
from foldcam.runtime.contract.schema import CONTRAST, CONTRIBUTION, Contract

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int32]

# Below this the norm of an embedding counts as zero.
_TINY_NORM = 1e-12


@dataclass(frozen=True)
class Expected:
    """What a folded model must return for a batch of n images.

    Attributes:
        embedding: `float32 [n, D]`, the network's own output.
        heatmap: `float32 [n, 1, h', w']`, or `[n, 2, h', w']` for a continuous outcome: what
            raises it, what lowers it.
        contribution: `float32 [n, 1, h', w']`, None where the model does not return it.
        runner_up: `int32 [n]`, None where the model does not return it.
        rows: `int32 [n, max(neighbors, transfer)]`, the most similar bank rows, nearest first.
        similarities: `float32 [n, N]`, to every bank row.
        estimate: `float64 [n]`, as `scaled_estimate`; None for a model of labels.
    """

    embedding: Floats
    heatmap: Floats
    rows: Rows
    similarities: Floats
    estimate: Doubles | None
    contribution: Floats | None = None
    contrast: Floats | None = None
    runner_up: Rows | None = None


@dataclass(frozen=True, eq=False)
class NetworkValues:
    """What the network says of n images, and how directions are pulled back at them.

    Attributes:
        embedding: `float32 [n, D]`, the network's own output.
        feature_map: `float32 [n, K', h, w]`: summands, or the last spatial activation.
        head_end: `float32 [n, D]`: `z`, the embedding before its normalisation; a classifier's
            logits.
        pull_back: directions `float32 [n, D]` -> grad-weights `float32 [n, K']` at each image.
    """

    embedding: Floats
    feature_map: Floats
    head_end: Floats
    pull_back: Callable[[Floats], Floats]


def expected_outputs(
    values: NetworkValues, bank: Bank, contract: Contract, stored: StoredBank | None = None
) -> Expected:
    """Apply the formulas.

    Args:
        values: the network's.
        bank: whose rows are compared and transferred.
        contract: how many rows, and the heatmap's size.
        stored: how the bank is searched; None for all of its rows.
    """
    if contract.scores is not None:
        return _expected_scores(values, bank, contract)
    embedding = values.embedding
    norms = np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), _TINY_NORM)
    unit = embedding / norms
    similarities = unit @ bank.embeddings.T
    count = min(bank.rows, max(contract.neighbors, contract.transfer))
    if stored is None:
        rows = nearest_rows(similarities, count)
    else:
        rows, _ = stored.nearest(unit, count)
    used = rows[:, : contract.transfer]
    signed = _signed(values, bank, contract, used)
    contribution = contrast = runner_up = None
    lengths = np.maximum(np.linalg.norm(values.head_end, axis=1), _TINY_NORM)[:, None, None, None]
    if CONTRIBUTION in contract.optional_outputs:
        contribution = resized_sum(signed / lengths, contract.heatmap_size)
    if CONTRAST in contract.optional_outputs:
        runner_up = runners_up(similarities, rows[:, 0], bank)
        between = signed - _signed(values, bank, contract, runner_up[:, None])
        contrast = resized_sum(between / lengths, contract.heatmap_size)
    estimate = None
    if bank.outcome is not None:
        signed = np.concatenate([signed, -signed], axis=1)
        known, tau = bank.outcome.values, bank.outcome.tau
        exact = kernel_estimates(unit, bank.embeddings, known, tau)
        estimate = exact / value_range(bank.outcome)
    return Expected(
        embedding,
        resized(_scaled(signed), contract.heatmap_size),
        rows,
        similarities,
        estimate,
        contribution,
        contrast,
        runner_up,
    )


def _expected_scores(values: NetworkValues, bank: Bank, contract: Contract) -> Expected:
    """Of a classifier."""
    ranked = nearest_rows(values.head_end, max(2, contract.neighbors))
    signed = _signed(values, bank, contract, ranked[:, :1])
    contrast = runner_up = None
    if CONTRAST in contract.optional_outputs:
        runner_up = ranked[:, 1]
        between = signed - _signed(values, bank, contract, ranked[:, 1:2])
        contrast = resized_sum(between, contract.heatmap_size)
    return Expected(
        values.embedding,
        resized(_scaled(signed), contract.heatmap_size),
        ranked[:, : contract.neighbors],
        values.embedding,
        None,
        resized_sum(signed, contract.heatmap_size),
        contrast,
        runner_up,
    )


def _scaled(signed: Floats) -> Floats:
    """What is positive, over its maximum in each image."""
    heat = np.maximum(signed, 0)
    greatest = heat.max(axis=(1, 2, 3), keepdims=True)
    scaled: Floats = np.divide(heat, greatest, out=np.zeros_like(heat), where=greatest > 0)
    return scaled


def _signed(values: NetworkValues, bank: Bank, contract: Contract, rows: Rows) -> Floats:
    """`float32 [n, 1, h, w]`: the map of the mean grad-weights of rows `int32 [n, k]`."""
    grad_weights = bank.grad_weights[bank.grad_index[rows]].mean(axis=1)
    explained = contract.explanation
    if explained is not None and explained.grad_weights == "own":
        if contract.scores is not None:
            # Of the class itself, whatever layer the graph's directions belong to.
            grad_weights = np.eye(bank.rows, dtype=np.float32)[rows[:, 0]]
        grad_weights = values.pull_back(grad_weights)
    summands = values.feature_map
    if explained is not None and explained.baseline == "mean":
        assert bank.mean_summands is not None
        summands = summands - bank.mean_summands
    signed: Floats = np.einsum("nk,nkhw->nhw", grad_weights, summands)[:, None]
    return signed


def runners_up(similarities: Floats, nearest: Rows, bank: Bank) -> Rows:
    """`int32 [n]`: the most similar row of another label than the nearest row's.

    Args:
        similarities: `float32 [n, N]`.
        nearest: `int32 [n]`.
    """
    labels = np.repeat(np.arange(len(bank.labels)), [run.count for run in bank.labels])
    others = np.where(labels == labels[nearest][:, None], -np.inf, similarities)
    best: Rows = others.argmax(axis=1).astype(np.int32)
    return best


def nearest_rows(similarities: Floats, count: int) -> Rows:
    """`int32 [n, count]`: the most similar rows, nearest first; of equal ones the first."""
    order = np.argsort(-similarities, axis=1, kind="stable")
    return order[:, :count].astype(np.int32)


def scaled_estimate(estimate: npt.NDArray[np.float32], outcome: BankOutcome) -> Doubles:
    """Estimates in their own unit -> on the kernel's scale, as a share of the values' range.

    Args:
        estimate: `float32 [n]`, as a folded model returns it.
        outcome: the outcome of the bank.
    """
    exact = estimate.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        on_scale = np.log(exact) if outcome.transform == "log" else exact
    return on_scale / value_range(outcome)


def value_range(outcome: BankOutcome) -> float:
    """Greatest minus smallest of the bank's values, on the kernel's scale; above zero."""
    return max(float(outcome.values.max()) - float(outcome.values.min()), 1e-30)


def resized(maps: Floats, size: tuple[int, int]) -> Floats:
    """Resize maps linearly between pixel centres, their edges repeated.

    Args:
        maps: `float32 [n, c, h, w]`.
        size: `(height, width)` wanted.
    """
    if maps.shape[2:] == size:
        return maps
    lines = maps.astype(np.float64).reshape(-1, *maps.shape[2:])
    made = [cv2.resize(each, size[::-1], interpolation=cv2.INTER_LINEAR) for each in lines]
    return np.asarray(made, np.float32).reshape(*maps.shape[:2], *size)


def resized_sum(maps: Floats, size: tuple[int, int]) -> Floats:
    """As `resized`, but a map's sum stays what it was, and not its mean."""
    share = maps.shape[2] * maps.shape[3] / (size[0] * size[1])
    made: Floats = resized(maps, size) * np.float32(share)
    return made
