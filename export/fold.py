"""Fold: ONNX embedding network + bank -> folded ONNX. Needs onnx and numpy, never torch.

What is grafted, for a batch of images:

    e          = embedding / |embedding|
    similarity = e . bank rows                          one MatMul
    neighbor   = the k most similar rows                ArgMax for k = 1, else TopK
    a          = mean of the grad-weights of the first `transfer` of them
    heat       = relu(a . A)                            one MatMul over the channels
    heatmap    = heat / max(heat)                       per image; zeros stay zeros

and for a continuous outcome, whose bank has values `y` in place of labels:

    estimate      = softmax(similarity / tau) . y       over all rows; exp of it for logarithms
    heatmap       = relu(a . A) / max|a . A|            what raises the estimate
    heatmap_lower = relu(-a . A) / max|a . A|           what lowers it
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.bank import Bank, BankOutcome
from export.embedding_model import BATCH, opset_of, strip_origin
from export.fold_checks import check_input, check_sizes, feature_map_shape, free_names
from export.graft import PREFIX, Graft
from export.graft_heat import graft_heatmap, graft_two_heatmaps
from export.onnx_search import find_normalization
from runtime.contract import (
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    IMAGE,
    METADATA_KEY,
    NEIGHBOR,
    SIMILARITY,
    BankSummary,
    Contract,
    InputType,
    Origin,
)
from runtime.errors import FoldcamError
from runtime.preprocess import Preprocessing

_log = logging.getLogger(__name__)

BANK_EMBEDDINGS = PREFIX + "bank_embeddings"
BANK_GRAD_WEIGHTS = PREFIX + "bank_grad_weights"
BANK_GRAD_INDEX = PREFIX + "bank_grad_index"
BANK_VALUES = PREFIX + "bank_values"
_SIMILARITIES = PREFIX + "similarities"

# Below this the norm of an embedding counts as zero.
_TINY_NORM = 1e-12

HeatmapSize = Literal["native", "input"] | tuple[int, int]


@dataclass(frozen=True)
class FoldOptions:
    """How the bank is folded.

    Attributes:
        transfer: number of nearest rows whose grad-weights are averaged.
        neighbors: number of rows reported.
        heatmap_size: `native` (the feature map's), `input`, or `(height, width)`.
        input_type: `float32` preprocessed, or `uint8` RGB with the preprocessing's
            normalisation in the graph.
    """

    transfer: int = 1
    neighbors: int = 1
    heatmap_size: HeatmapSize = "native"
    input_type: InputType = "float32"


def fold(
    model: onnx.ModelProto,
    bank: Bank,
    *,
    preprocessing: Preprocessing,
    layer: str,
    origin: Origin,
    versions: dict[str, str],
    options: FoldOptions | None = None,
) -> onnx.ModelProto:
    """Graft bank, transfer and heatmap onto an embedding network's graph.

    Args:
        model: `image float32 [N,3,H,W]` -> `feature_map [N,K,h,w]`, `embedding [N,D]`,
            as `export.graph.to_onnx` makes it. Not changed.
        bank: rows with the same D and K.
        preprocessing, layer, origin, versions: for the contract.
        options: see `FoldOptions`.

    Returns:
        The folded model, whose outputs and metadata are those of `runtime.contract`.

    Raises:
        FoldcamError: the bank is of another D or K, or the model lacks an output.
    """
    options = options or FoldOptions()
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    strip_origin(folded)
    # The oldest file format that has these operators: the newest ONNX Runtime for
    # Python 3.10 (JetPack 6) refuses files that the newest onnx writes by default.
    folded.ir_version = helper.find_min_ir_version_for(folded.opset_import, ignore_unknown=True)
    channels, height, width = feature_map_shape(folded)
    check_input(folded, preprocessing)
    free_names(folded.graph)
    check_sizes(folded, bank, channels)
    transfer = _clamped("--transfer", options.transfer, bank.rows)
    neighbors = _clamped("--neighbors", options.neighbors, bank.rows)
    heatmap_size = _heatmap_size(options.heatmap_size, (height, width), preprocessing)
    normalized = find_normalization(folded.graph, EMBEDDING) is not None

    graft = Graft(folded.graph, opset_of(folded))
    if options.input_type == "uint8":
        _graft_uint8_input(graft, preprocessing)
    rows = _graft_neighbors(graft, bank, max(transfer, neighbors), neighbors)
    grad_weights = _graft_transfer(graft, bank, rows, transfer, max(transfer, neighbors))
    feature_map = (channels, height, width)
    if bank.outcome is None:
        graft_heatmap(graft, grad_weights, feature_map, heatmap_size)
    else:
        graft_two_heatmaps(graft, grad_weights, feature_map, heatmap_size)
        _graft_estimate(graft, bank.outcome)
    _replace_outputs(folded.graph, neighbors, heatmap_size, bank.outcome is not None)

    contract = Contract(
        preprocessing=preprocessing,
        input_type=options.input_type,
        layer=layer,
        feature_map=feature_map,
        normalized=normalized,
        heatmap_size=heatmap_size,
        transfer=transfer,
        neighbors=neighbors,
        bank=BankSummary(
            rows=bank.rows,
            embedding_size=bank.embedding_size,
            channels=bank.channels,
            grad_weight_rows=bank.grad_weights.shape[0],
            objective=bank.objective,
            channel_rule=bank.channel_rule,
            compression=bank.compression,
            sha256=bank.sha256(),
        ),
        labels=bank.labels,
        origin=origin,
        versions=versions,
        outcome=None if bank.outcome is None else bank.outcome.summary(),
    )
    entry = folded.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, contract.to_json()
    onnx.checker.check_model(folded, full_check=True)
    return folded


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


def _graft_neighbors(graft: Graft, bank: Bank, found: int, reported: int) -> str:
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


def _graft_transfer(graft: Graft, bank: Bank, rows: str, transfer: int, found: int) -> str:
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


def _graft_estimate(graft: Graft, outcome: BankOutcome) -> None:
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


def _graft_uint8_input(graft: Graft, preprocessing: Preprocessing) -> None:
    """`uint8 [N,H,W,3]` RGB -> the network's float input; the cast comes first for TensorRT."""
    scale, shift = preprocessing.scale_and_shift()
    inner = PREFIX + "network_input"
    for node in graft.graph.node:
        for position, name in enumerate(node.input):
            if name == IMAGE:
                node.input[position] = inner
    existing = list(graft.graph.node)
    del graft.graph.node[:]
    floats = graft.node("Cast", [IMAGE], PREFIX + "pixels", to=TensorProto.FLOAT)
    planes = graft.node("Transpose", [floats], PREFIX + "planes", perm=[0, 3, 1, 2])
    if preprocessing.color == "bgr":
        order = graft.constant("bgr", [2, 1, 0], np.int64)
        planes = graft.node("Gather", [planes, order], PREFIX + "ordered", axis=1)
    scales = graft.constant("input_scale", scale.reshape(1, 3, 1, 1), np.float32)
    shifts = graft.constant("input_shift", shift.reshape(1, 3, 1, 1), np.float32)
    scaled = graft.node("Mul", [planes, scales], PREFIX + "scaled_pixels")
    graft.node("Add", [scaled, shifts], inner)
    graft.graph.node.extend(existing)
    image = next(value for value in graft.graph.input if value.name == IMAGE)
    image.CopyFrom(
        helper.make_tensor_value_info(
            IMAGE, TensorProto.UINT8, [BATCH, preprocessing.height, preprocessing.width, 3]
        )
    )


def _replace_outputs(
    graph: onnx.GraphProto, neighbors: int, heatmap_size: tuple[int, int], continuous: bool
) -> None:
    embedding = next(value for value in graph.output if value.name == EMBEDDING)
    kept = onnx.ValueInfoProto()
    kept.CopyFrom(embedding)
    del graph.output[:]
    graph.output.append(kept)
    shapes: list[tuple[str, int, list[int | str]]] = [
        (HEATMAP, TensorProto.FLOAT, [BATCH, 1, *heatmap_size]),
        (NEIGHBOR, TensorProto.INT32, [BATCH, neighbors]),
        (SIMILARITY, TensorProto.FLOAT, [BATCH, neighbors]),
    ]
    if continuous:
        shapes.append((HEATMAP_LOWER, TensorProto.FLOAT, [BATCH, 1, *heatmap_size]))
        shapes.append((ESTIMATE, TensorProto.FLOAT, [BATCH]))
    for name, dtype, shape in shapes:
        graph.output.append(helper.make_tensor_value_info(name, dtype, shape))


def _clamped(flag: str, wanted: int, rows: int) -> int:
    if wanted < 1:
        raise FoldcamError(f"{flag} is {wanted}; it must be at least 1.")
    if wanted > rows:
        _log.warning("%s %d is more than the bank's %d rows: taking %d.", flag, wanted, rows, rows)
    return min(wanted, rows)


def _heatmap_size(
    wanted: HeatmapSize, native: tuple[int, int], preprocessing: Preprocessing
) -> tuple[int, int]:
    if wanted == "native":
        return native
    if wanted == "input":
        return preprocessing.height, preprocessing.width
    if min(wanted) < 1:
        raise FoldcamError(f"--heatmap-size {wanted[1]}x{wanted[0]}: both must be at least 1.")
    return wanted
