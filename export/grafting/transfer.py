"""Grafting what is taken from the nearest rows: their grad-weights, or the kernel estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from foldcam.export.banks.bank import BankOutcome
from foldcam.export.grafting.in_graph import (
    BANK_GRAD_BASIS,
    BANK_GRAD_INDEX,
    BANK_GRAD_SCALES,
    BANK_GRAD_WEIGHTS,
    BANK_VALUES,
    StoredBank,
)
from foldcam.export.grafting.search import SIMILARITIES
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import ESTIMATE


@dataclass(frozen=True)
class Transferred:
    """What an image takes from the bank, as names of values.

    Attributes:
        rows: `float32 [N, 1, K]`: grad-weights, or a direction, of size 1 to 2.
        scale: `float32 [N, 1, 1]` by which they are to be multiplied; None for 1. It comes last,
            because half precision has no room for small numbers.
    """

    rows: str
    scale: str | None


def graft_transfer(
    graft: Graft, stored: StoredBank, rows: str, transfer: int, found: int, name: str = "gathered"
) -> Transferred:
    """The mean of the nearest rows' grad-weights for each image.

    Args:
        rows: name of the nearest rows `[N, found]`.
    """
    used = rows if transfer == found else graft.first_columns(rows, transfer, f"{PREFIX}{name}_of")
    arrays = stored.arrays
    if BANK_GRAD_INDEX in arrays:
        index = _constant(graft, BANK_GRAD_INDEX, arrays)
        used = graft.node("Gather", [index, used], f"{PREFIX}{name}_rows", axis=0)
    table = _constant(graft, BANK_GRAD_WEIGHTS, arrays)
    weights = graft.node("Gather", [table, used], PREFIX + name, axis=0)
    if arrays[BANK_GRAD_WEIGHTS].dtype == np.float16:
        weights = graft.node("Cast", [weights], f"{PREFIX}{name}_float", to=TensorProto.FLOAT)
    scale = None
    if BANK_GRAD_SCALES in arrays:
        column = _constant(graft, BANK_GRAD_SCALES, arrays)
        scales = graft.node("Gather", [column, used], f"{PREFIX}{name}_scales", axis=0)
        shape = graft.constant(f"{name}_scales_shape", [0, -1, 1], np.int64)
        scale = graft.node("Reshape", [scales, shape], f"{PREFIX}{name}_scale")
    if transfer > 1:
        if scale is not None:
            greatest = graft.reduce("ReduceMax", scale, 1, f"{PREFIX}{name}_greatest_scale")
            shares = graft.node("Div", [scale, greatest], f"{PREFIX}{name}_scale_shares")
            weights = graft.node("Mul", [weights, shares], f"{PREFIX}{name}_weighed")
            scale = greatest
        weights = graft.reduce("ReduceMean", weights, 1, f"{PREFIX}{name}_mean")
    if stored.storage.rank:
        basis = _constant(graft, BANK_GRAD_BASIS, arrays)
        weights = graft.node("MatMul", [weights, basis], f"{PREFIX}{name}_combined")
    return Transferred(weights, scale)


def _constant(graft: Graft, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """The array's name, which two searches share."""
    if not graft.has_constant(name):
        graft.constant(name, arrays[name], arrays[name].dtype)
    return name


def graft_estimate(graft: Graft, stored: StoredBank, outcome: BankOutcome) -> None:
    """`estimate [N]` from the similarities to all rows."""
    tau = graft.constant("tau", outcome.tau, np.float32)
    logits = graft.node("Div", [SIMILARITIES, tau], PREFIX + "logits")
    weights = graft.node("Softmax", [logits], PREFIX + "row_weights", axis=1)
    values = graft.constant(BANK_VALUES, stored.arrays[BANK_VALUES], np.float32)
    # Values around zero: in half precision the weights do not quite sum to one.
    centre = graft.constant("centre", [float(np.median(outcome.values))], np.float32)
    centred = graft.node("Sub", [values, centre], PREFIX + "centred_values")
    away = graft.node("MatMul", [weights, centred], PREFIX + "away_from_centre")
    mean = graft.node("Add", [away, centre], PREFIX + "mean_value")
    if outcome.transform == "log":
        mean = graft.node("Exp", [mean], PREFIX + "value")
    graft.node("Reshape", [mean, graft.constant("estimate_shape", [-1], np.int64)], ESTIMATE)
