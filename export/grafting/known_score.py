"""The rule for unknown images in a folded model's file: in its contract and, if need be, its graph.

The score `whitened` is four nodes behind the embedding, and the output `known_score`:

    x           = (e - centre) @ transform            float32 [N, r]
    known_score = max(x @ means) / |x|                float32 [N]
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from foldcam.export.banks.unknown.rows import Rows, label_space
from foldcam.export.grafting.in_graph import contract_of, write_contract
from foldcam.export.onnx_graphs.embedding_model import BATCH, opset_of
from foldcam.export.onnx_graphs.values import refill
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import EMBEDDING, KNOWN_SCORE
from foldcam.runtime.contract.unknown import UnknownRule
from foldcam.runtime.system.errors import FoldcamError

_KNOWN = PREFIX + "known_"
_UNIT = PREFIX + "unit_embedding"
_TINY = 1e-9


def with_rule(model: onnx.ModelProto, rule: UnknownRule | None, rows: Rows) -> onnx.ModelProto:
    """A folded model with a rule in place of the one that it has, if any.

    Args:
        model: the folded model. Not changed.
        rule: chosen for its bank; None takes the rule out.
        rows: those of its bank.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for items in (graph.node, graph.initializer, graph.value_info):
        refill(items, [item for item in items if not item.name.startswith(_KNOWN)])
    refill(graph.output, [value for value in graph.output if value.name != KNOWN_SCORE])
    if rule is not None and rule.in_graph:
        _graft_score(changed, rows)
    write_contract(changed, replace(contract_of(changed), unknown=rule))
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _graft_score(model: onnx.ModelProto, rows: Rows) -> None:
    _, labels = np.unique(rows.labels, return_inverse=True)
    space = label_space(rows.units, labels.astype(np.int64))
    if space is None:
        raise FoldcamError(
            "The score whitened needs at least two labels, and one of them with two images that "
            "differ: choose --score similarity."
        )
    graph = model.graph
    graft = Graft(graph, opset_of(model))
    made = {name for node in graph.node for name in node.output}
    centre = graft.constant("known_centre", space.centre, np.float32)
    transform = graft.constant("known_transform", space.transform, np.float32)
    means = graft.constant("known_means", space.means.T, np.float32)
    unit = _UNIT if _UNIT in made else EMBEDDING
    placed = graft.node("Sub", [unit, centre], _KNOWN + "centred")
    placed = graft.node("MatMul", [placed, transform], _KNOWN + "placed")
    norm = graft.reduce("ReduceL2", placed, 1, _KNOWN + "norm")
    tiny = graft.constant("known_tiny", _TINY, np.float32)
    norm = graft.node("Max", [norm, tiny], _KNOWN + "safe_norm")
    cosines = graft.node("MatMul", [placed, means], _KNOWN + "products")
    best = graft.reduce("ReduceMax", cosines, 1, _KNOWN + "best")
    score = graft.node("Div", [best, norm], _KNOWN + "cosine")
    flat = graft.constant("known_flat", [-1], np.int64)
    graft.node("Reshape", [score, flat], KNOWN_SCORE)
    graph.output.append(helper.make_tensor_value_info(KNOWN_SCORE, TensorProto.FLOAT, [BATCH]))
