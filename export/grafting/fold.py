"""Fold: ONNX embedding network + bank -> folded ONNX. Needs onnx and numpy, never torch.

What is grafted, for a batch of images:

    e          = embedding / |embedding|
    similarity = e . bank rows                          one MatMul; of a large bank, the rows
                                                        of the nearest lists (`stored_bank`)
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
from dataclasses import dataclass, field
from typing import Literal

import onnx
from onnx import TensorProto, helper

from foldcam.export.bank import Bank
from foldcam.export.grafting.checks import (
    check_input,
    check_sizes,
    feature_map_shape,
    free_names,
    takes_uint8,
)
from foldcam.export.grafting.constants import store
from foldcam.export.grafting.heat import graft_heatmap, graft_two_heatmaps
from foldcam.export.grafting.in_graph import BANK_GRAD_WEIGHTS, StoredBank
from foldcam.export.grafting.input import graft_uint8_input
from foldcam.export.grafting.options import StorageOptions
from foldcam.export.grafting.search import graft_neighbors, graft_unit_embedding
from foldcam.export.grafting.transfer import graft_estimate, graft_transfer
from foldcam.export.onnx_graphs.embedding_model import BATCH, opset_of, strip_origin
from foldcam.export.onnx_graphs.file_size import check_file_size, weight_bytes
from foldcam.export.onnx_graphs.normalization import find_normalization, has_unit_norm
from foldcam.export.onnx_graphs.precision import is_float16, to_float16
from foldcam.export.onnx_graphs.writing import Graft
from foldcam.runtime.contract.schema import (
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    METADATA_KEY,
    NEIGHBOR,
    SIMILARITY,
    BankSummary,
    Contract,
    InputType,
    Origin,
    Precision,
)
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.images.preprocess import Preprocessing

_log = logging.getLogger(__name__)

HeatmapSize = Literal["native", "input"] | tuple[int, int]

# TensorRT's TopK takes no more.
_MOST_FOUND = 3840


@dataclass(frozen=True)
class FoldOptions:
    """How the bank is folded.

    Attributes:
        transfer: number of nearest rows whose grad-weights are averaged.
        neighbors: number of rows reported.
        heatmap_size: `native` (the feature map's), `input`, or `(height, width)`.
        input_type: `float32` preprocessed, or `uint8` RGB with the preprocessing's
            normalisation in the graph.
        precision: precision of the network's own steps. With `fp16` inputs, outputs, and all that
            is grafted stay float32.
        storage: how the bank is stored and searched.
    """

    transfer: int = 1
    neighbors: int = 1
    heatmap_size: HeatmapSize = "native"
    input_type: InputType = "float32"
    precision: Precision = "fp32"
    storage: StorageOptions = field(default_factory=StorageOptions)


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
            as `Network.to_onnx` makes it. Not changed.
        bank: rows with the same D and K.
        preprocessing, layer, origin, versions: for the contract.
        options: see `FoldOptions`.

    Returns:
        The folded model, whose outputs and metadata are those of `runtime.contract.schema`.

    Raises:
        FoldcamError: the bank is of another D or K, the model lacks an output, the bank
            cannot be stored as the options say, or the two are more than one ONNX file can
            hold.
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
    if takes_uint8(folded) and options.input_type != "uint8":
        raise FoldcamError(
            "The network normalises uint8 images itself, in its first convolution: pass --input "
            "uint8, or export the network again."
        )
    free_names(folded.graph)
    check_sizes(folded, bank, channels)
    if options.precision == "fp16" and not is_float16(folded):
        folded = to_float16(folded)
    stored = store(bank, options.storage)
    transfer = _clamped("--transfer", options.transfer, bank, stored)
    neighbors = _clamped("--neighbors", options.neighbors, bank, stored)
    heatmap_size = _heatmap_size(options.heatmap_size, (height, width), preprocessing)
    normalized = find_normalization(folded.graph, EMBEDDING) is not None

    network_bytes = weight_bytes(folded)
    graft = Graft(folded.graph, opset_of(folded))
    if options.input_type == "uint8" and not takes_uint8(folded):
        graft_uint8_input(graft, preprocessing)
    found = max(transfer, neighbors)
    unit = graft_unit_embedding(graft, has_unit_norm(folded.graph, EMBEDDING))
    rows = graft_neighbors(graft, stored, unit, found, neighbors)
    grad_weights = graft_transfer(graft, stored, rows, transfer, found)
    feature_map = (channels, height, width)
    if bank.outcome is None:
        graft_heatmap(graft, grad_weights, feature_map, heatmap_size)
    else:
        graft_two_heatmaps(graft, grad_weights, feature_map, heatmap_size)
        graft_estimate(graft, stored, bank.outcome)
    _replace_outputs(folded.graph, neighbors, heatmap_size, bank.outcome is not None)

    check_file_size(network_bytes, weight_bytes(folded) - network_bytes, bank.rows)
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
            grad_weight_rows=stored.arrays[BANK_GRAD_WEIGHTS].shape[0],
            objective=bank.objective,
            channel_rule=bank.channel_rule,
            compression=_compression(bank, options),
            sha256=bank.sha256(),
            storage=None if _as_given(stored, options) else stored.storage,
        ),
        labels=bank.labels,
        origin=origin,
        versions=versions,
        outcome=None if bank.outcome is None else bank.outcome.summary(),
        precision=options.precision,
    )
    entry = folded.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, contract.to_json()
    onnx.checker.check_model(folded, full_check=True)
    return folded


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


def _clamped(flag: str, wanted: int, bank: Bank, stored: StoredBank) -> int:
    if wanted < 1:
        raise FoldcamError(f"{flag} is {wanted}; it must be at least 1.")
    most, why = bank.rows, f"the bank's {bank.rows} rows"
    if stored.most_neighbors() < most:
        most, why = stored.most_neighbors(), f"the {stored.storage.probes} searched lists hold"
    if most > _MOST_FOUND:
        most, why = _MOST_FOUND, "TensorRT sorts"
    if wanted > most:
        _log.warning("%s %d is more than %s: taking %d.", flag, wanted, why, most)
    return min(wanted, most)


def _as_given(stored: StoredBank, options: FoldOptions) -> bool:
    """Whether the graph holds the bank's own arrays."""
    return stored.plain and options.storage.compression.kind == "none"


def _compression(bank: Bank, options: FoldOptions) -> str:
    added = options.storage.compression
    names = [name for name in (bank.compression, added.name) if name != "none"]
    return ", ".join(names) or "none"


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
