"""Grafting the bank: embedding -> nearest rows, their grad-weights, and the kernel estimate."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.bank import Bank, BankOutcome
from export.graft import PREFIX, Graft
from runtime.contract import EMBEDDING, ESTIMATE, NEIGHBOR, SIMILARITY, Contract
from runtime.errors import FoldcamError

BANK_EMBEDDINGS = PREFIX + "bank_embeddings"
BANK_GRAD_WEIGHTS = PREFIX + "bank_grad_weights"
BANK_GRAD_INDEX = PREFIX + "bank_grad_index"
BANK_VALUES = PREFIX + "bank_values"
_SIMILARITIES = PREFIX + "similarities"


# Below this the norm of an embedding counts as zero.
_TINY_NORM = 1e-12


def graft_neighbors(graft: Graft, bank: Bank, found: int, reported: int) -> str:
    """Similarity to every row and the nearest `found`; returns their indices `int64 [N, found]`."""
    norm = graft.reduce("ReduceL2", EMBEDDING, 1, PREFIX + "norm")
    tiny = graft.constant("tiny_norm", _TINY_NORM, np.float32)
    safe = graft.node("Max", [norm, tiny], PREFIX + "safe_norm")
    unit = graft.node("Div", [EMBEDDING, safe], PREFIX + "unit_embedding")
    transposed = graft.constant(BANK_EMBEDDINGS, bank.embeddings.T, np.float32)
    similarities = graft.node("MatMul", [unit, transposed], _SIMILARITIES)
    if found == 1:
        # Cheaper than TopK in every backend.
        rows = graft.node("ArgMax", [similarities], PREFIX + "rows", axis=1, keepdims=1)
        graft.reduce("ReduceMax", similarities, 1, SIMILARITY)
        graft.node("Cast", [rows], NEIGHBOR, to=TensorProto.INT32)
        return rows
    count = graft.constant("found", [found], np.int64)
    rows = PREFIX + "rows"
    if reported == found:
        graft.nodes("TopK", [similarities, count], [SIMILARITY, rows], axis=1, sorted=1)
        graft.node("Cast", [rows], NEIGHBOR, to=TensorProto.INT32)
        return rows
    values = PREFIX + "nearest_similarities"
    graft.nodes("TopK", [similarities, count], [values, rows], axis=1, sorted=1)
    graft.first_columns(values, reported, SIMILARITY)
    kept = graft.first_columns(rows, reported, PREFIX + "reported_rows")
    graft.node("Cast", [kept], NEIGHBOR, to=TensorProto.INT32)
    return rows


def graft_transfer(graft: Graft, bank: Bank, rows: str, transfer: int, found: int) -> str:
    """Grad-weights for each image, `float32 [N, 1, K]`."""
    used = rows if transfer == found else graft.first_columns(rows, transfer, PREFIX + "used")
    shared = bank.grad_weights.shape[0] != bank.rows or not np.array_equal(
        bank.grad_index, np.arange(bank.rows)
    )
    if shared:
        index = graft.constant(BANK_GRAD_INDEX, bank.grad_index, np.int32)
        used = graft.node("Gather", [index, used], PREFIX + "grad_rows", axis=0)
    table = graft.constant(BANK_GRAD_WEIGHTS, bank.grad_weights, np.float32)
    gathered = graft.node("Gather", [table, used], PREFIX + "gathered", axis=0)
    if transfer == 1:
        return gathered
    return graft.reduce("ReduceMean", gathered, 1, PREFIX + "grad_weights")


def graft_estimate(graft: Graft, outcome: BankOutcome) -> None:
    """`estimate [N]` from the similarities to all rows."""
    tau = graft.constant("tau", outcome.tau, np.float32)
    logits = graft.node("Div", [_SIMILARITIES, tau], PREFIX + "logits")
    weights = graft.node("Softmax", [logits], PREFIX + "row_weights", axis=1)
    values = graft.constant(BANK_VALUES, outcome.values[:, None], np.float32)
    # Values around zero: in half precision the weights do not quite sum to one.
    centre = graft.constant("centre", [float(np.median(outcome.values))], np.float32)
    centred = graft.node("Sub", [values, centre], PREFIX + "centred_values")
    away = graft.node("MatMul", [weights, centred], PREFIX + "away_from_centre")
    mean = graft.node("Add", [away, centre], PREFIX + "mean_value")
    if outcome.transform == "log":
        mean = graft.node("Exp", [mean], PREFIX + "value")
    graft.node("Reshape", [mean, graft.constant("estimate_shape", [-1], np.int64)], ESTIMATE)


def bank_of(model: onnx.ModelProto, contract: Contract) -> Bank:
    """The bank inside a folded model.

    Raises:
        FoldcamError: the file's bank is missing or does not match its contract.
    """
    arrays = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name in (BANK_EMBEDDINGS, BANK_GRAD_WEIGHTS, BANK_GRAD_INDEX, BANK_VALUES)
    }
    needed = {BANK_EMBEDDINGS, BANK_GRAD_WEIGHTS}
    if contract.outcome is not None:
        needed.add(BANK_VALUES)
    if not needed <= set(arrays):
        raise FoldcamError("The folded model's bank is missing from its graph.")
    outcome = None
    if contract.outcome is not None:
        outcome = BankOutcome(
            arrays[BANK_VALUES][:, 0], contract.outcome.tau, contract.outcome.transform
        )
    rows = arrays[BANK_EMBEDDINGS].shape[1]
    return Bank(
        embeddings=np.ascontiguousarray(arrays[BANK_EMBEDDINGS].T),
        grad_weights=arrays[BANK_GRAD_WEIGHTS],
        grad_index=arrays.get(BANK_GRAD_INDEX, np.arange(rows, dtype=np.int32)),
        labels=contract.labels,
        objective=contract.bank.objective,
        channel_rule=contract.bank.channel_rule,
        compression=contract.bank.compression,
        network_sha256=contract.origin.network_sha256,
        outcome=outcome,
    )
