"""Grafting the runner-up: the most similar row of another label than the nearest row's."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.in_graph import StoredBank
from foldcam.export.grafting.search import BELOW_ALL, SIMILARITIES
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import RUNNER_UP, RUNNER_UP_SIMILARITY
from foldcam.runtime.system.errors import FoldcamError

ROW_LABELS = PREFIX + "row_labels"
"""`int32 [rows]`: the number of each row's label."""


def check_contrast(bank: Bank, stored: StoredBank) -> None:
    """Whether a bank has another label, and a search that looks at all of its rows."""
    if bank.outcome is not None or len(bank.labels) < 2:
        raise FoldcamError("--contrast compares two labels, and the bank does not have two.")
    if bank.summands is None:
        raise FoldcamError(
            "--contrast: an older foldcam made the bank, and its grad-weights have no unit: build "
            "it again."
        )
    if stored.storage.search != "exhaustive":
        raise FoldcamError(
            "--contrast looks for another label among all rows, and the bank is searched in "
            "lists: add --search exhaustive."
        )


def graft_runner_up(graft: Graft, bank: Bank, rows: str, found: int) -> str:
    """`runner_up` and `runner_up_similarity`, both `[N]`.

    Args:
        rows: name of the nearest rows `[N, found]`.

    Returns:
        The name of the row's index, `[N, 1]`.
    """
    counts = [run.count for run in bank.labels]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    table = graft.constant(ROW_LABELS, labels, np.int32)
    first = rows if found == 1 else graft.first_columns(rows, 1, PREFIX + "first_row")
    own = graft.node("Gather", [table, first], PREFIX + "own_label", axis=0)
    same = graft.node("Equal", [table, own], PREFIX + "same_label")
    below = graft.constant("below_all", BELOW_ALL, np.float32)
    others = graft.node("Where", [same, below, SIMILARITIES], PREFIX + "other_similarities")
    row = graft.node("ArgMax", [others], PREFIX + "runner_up_row", axis=1, keepdims=1)
    best = graft.reduce("ReduceMax", others, 1, PREFIX + "runner_up_best")
    flat = graft.constant("one_per_image_flat", [-1], np.int64)
    graft.node("Reshape", [best, flat], RUNNER_UP_SIMILARITY)
    whole = graft.node("Cast", [row], PREFIX + "runner_up_whole", to=TensorProto.INT32)
    graft.node("Reshape", [whole, flat], RUNNER_UP)
    return row
