"""Fold: ONNX embedding network + bank -> folded ONNX. Needs onnx and numpy, never torch.

What is grafted, for a batch of images:

    e          = embedding / |embedding|
    similarity = e . bank rows                          one MatMul; of a large bank, the rows
                                                        of the nearest lists (`stored_bank`)
    neighbor   = the k most similar rows                ArgMax for k = 1, else TopK
    a          = mean of the grad-weights of the first `transfer` of them
    signed_p   = a . (S_p - mean S_p)                   one MatMul over the channels; the mean over
                                                        the training images where that is asked
    heatmap    = relu(signed) / max(relu(signed))       per image; zeros stay zeros
    contribution = signed / |z|                         in units of the cosine, signed

and for a continuous outcome, whose bank has values `y` in place of labels:

    estimate      = softmax(similarity / tau) . y       over all rows; exp of it for logarithms
    heatmap       = relu(signed) / max|signed|          what raises the estimate
    heatmap_lower = relu(-signed) / max|signed|         what lowers it

`S` is the network's output `feature_map`: the summands of the sum over positions that the
embedding depends on, or its last spatial activation where there is no such sum.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.bank_input import (
    directions_stored,
    graft_query,
    to_inputs,
    with_directions,
)
from foldcam.export.grafting.checks import (
    check_input,
    check_mean,
    check_sizes,
    check_summands,
    feature_map_shape,
    free_names,
    takes_uint8,
)
from foldcam.export.grafting.constants import store
from foldcam.export.grafting.frame import graft_frame
from foldcam.export.grafting.heat import MapGraft
from foldcam.export.grafting.in_graph import BANK_GRAD_WEIGHTS, BANK_MEAN_SUMMANDS, StoredBank
from foldcam.export.grafting.input import graft_uint8_input
from foldcam.export.grafting.options import StorageOptions
from foldcam.export.grafting.own import OwnGradWeights
from foldcam.export.grafting.search import (
    check_contrast,
    graft_neighbors,
    graft_norm,
    graft_runner_up,
    graft_unit_embedding,
)
from foldcam.export.grafting.transfer import graft_estimate, graft_transfer
from foldcam.export.onnx_graphs.embedding_model import (
    BATCH,
    marked_summands,
    opset_of,
    strip_origin,
)
from foldcam.export.onnx_graphs.message import check_file_size, weight_bytes
from foldcam.export.onnx_graphs.normalization import find_normalization, has_unit_norm
from foldcam.export.onnx_graphs.precision import is_float16, to_float16
from foldcam.export.onnx_graphs.values import refill
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import (
    CONTRAST,
    CONTRIBUTION,
    EMBEDDING,
    METADATA_KEY,
    BankInput,
    BankSummary,
    Baseline,
    Contract,
    Explanation,
    InputType,
    Origin,
    Precision,
    SummandKind,
)
from foldcam.runtime.contract.tensors import expected_tensors
from foldcam.runtime.images.preprocess import MAX_SIDE, Preprocessing
from foldcam.runtime.system.errors import FoldcamError

_log = logging.getLogger(__name__)

HeatmapSize = Literal["native", "input"] | tuple[int, int]

MOST_ROWS = 10_000
"""Rows for which engines of a model are built whose bank is an input, if it has not more."""

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
        baseline: what summands are compared with; None chooses by the kind of head, see
            `default_baseline`.
        contrast: whether the map of the label and not the runner-up is an output as well.
        bank_input: whether the bank is an input of the graph, to be changed on the device, in
            place of constants.
        query: whether a direction can be given in place of the bank's; needs `bank_input`.
        frame: `(width, height)` of whole camera frames that the graph takes, of which it makes
            the network's input as the preprocessing says; needs the input type `uint8`.
    """

    transfer: int = 1
    neighbors: int = 1
    heatmap_size: HeatmapSize = "native"
    input_type: InputType = "float32"
    precision: Precision = "fp32"
    storage: StorageOptions = field(default_factory=StorageOptions)
    baseline: Baseline | None = None
    contrast: bool = False
    bank_input: bool = False
    query: bool = False
    frame: tuple[int, int] | None = None


def fold(
    model: onnx.ModelProto,
    bank: Bank,
    *,
    preprocessing: Preprocessing,
    layer: str,
    origin: Origin,
    versions: dict[str, str],
    options: FoldOptions | None = None,
    wide: Collection[str] = (),
) -> onnx.ModelProto:
    """Graft bank, transfer and heatmap onto an embedding network's graph.

    Args:
        model: `image float32 [N,3,H,W]` -> `feature_map [N,K,h,w]`, `embedding [N,D]`,
            as `Network.to_onnx` makes it. Not changed.
        bank: rows with the same D and K.
        preprocessing, layer, origin, versions: for the contract.
        options: see `FoldOptions`.
        wide: names of values that float16 does not hold, see `ranges.beyond_float16`; what makes
            or reads one stays float32 where the network becomes float16.

    Returns:
        The folded model, whose outputs and metadata are those of `runtime.contract.schema`.

    Raises:
        FoldcamError: the bank is of another D or K, the model lacks an output, the bank
            cannot be stored as the options say, or the two are more than one ONNX file can
            hold.
    """
    options = options or FoldOptions()
    folded, (channels, height, width) = opened(model, preprocessing, options)
    if options.query and not options.bank_input:
        raise FoldcamError("--query needs a bank that can be asked: add --bank-input.")
    if options.bank_input:
        bank = with_directions(bank, model, options.storage)
    check_sizes(folded, bank, channels)
    check_summands(model, bank)
    explanation = _explanation(bank, options, marked_summands(model)[1])
    if explanation is None or explanation.baseline == "none":
        bank = replace(bank, mean_summands=None)
    check_mean(bank, (channels, height, width))
    if options.precision == "fp16" and not is_float16(folded):
        folded = to_float16(folded, wide=wide)
    stored = directions_stored(bank) if options.bank_input else store(bank, options.storage)
    if options.contrast:
        check_contrast(bank, stored)
    transfer = _clamped("--transfer", options.transfer, bank, stored)
    neighbors = _clamped("--neighbors", options.neighbors, bank, stored)
    heatmap_size = heatmap_size_of(options.heatmap_size, (height, width), preprocessing)
    head_end = find_normalization(folded.graph, EMBEDDING)
    normalized = head_end is not None

    network_bytes = weight_bytes(folded)
    graft = begun(folded, preprocessing, options)
    found = max(transfer, neighbors)
    unit = graft_unit_embedding(graft, has_unit_norm(folded.graph, EMBEDDING))
    rows = graft_neighbors(graft, stored, unit, found, neighbors)
    transferred = graft_transfer(graft, stored, rows, transfer, found)
    feature_map = (channels, height, width)
    maps = MapGraft(graft, feature_map, heatmap_size, stored.arrays.get(BANK_MEAN_SUMMANDS))
    own = None
    if bank.rule == "own":
        assert explanation is not None
        own = OwnGradWeights(
            graft, head_end or EMBEDDING, explanation.summands, explanation.query, feature_map,
            bank.embedding_size,
        )  # fmt: skip
    asked = transferred.rows
    if options.query:
        asked = graft_query(graft, asked, bank.embedding_size)
    signed = maps.signed(asked if own is None else own.at(asked, "label"))
    if bank.outcome is None:
        maps.heatmap(signed)
    else:
        maps.two_heatmaps(signed)
        graft_estimate(graft, stored, bank.outcome)
    if explanation is not None:
        norm = _norm(graft, head_end or EMBEDDING, bank.embedding_size)
        cosines = maps.in_cosines(signed, transferred.scale, norm, "contribution")
        maps.contribution(cosines)
        if options.contrast:
            row = graft_runner_up(graft, bank, rows, found)
            other = graft_transfer(graft, stored, row, 1, 1, "runner_up_gathered")
            weights = other.rows if own is None else own.at(other.rows, "runner_up")
            against = maps.signed(weights, "runner_up_heat")
            maps.contrast(cosines, maps.in_cosines(against, other.scale, norm, "runner_up"))

    if options.bank_input:
        to_inputs(folded.graph, bank.embedding_size)
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
        explanation=explanation,
        optional_outputs=optional_outputs(explanation, options),
        bank_input=BankInput(max(MOST_ROWS, bank.rows)) if options.bank_input else None,
        query=options.query,
        frame=options.frame,
    )
    return closed(folded, contract.of_file())


def opened(
    model: onnx.ModelProto, preprocessing: Preprocessing, options: FoldOptions
) -> tuple[onnx.ModelProto, tuple[int, int, int]]:
    """A copy of a network to graft onto, and `(K, h, w)` of its feature map.

    Args:
        model: as `fold` takes it; not changed.
        preprocessing, options: what the images will be.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    strip_origin(folded)
    # The oldest file format that has these operators: the newest ONNX Runtime for
    # Python 3.10 (JetPack 6) refuses files that the newest onnx writes by default.
    folded.ir_version = helper.find_min_ir_version_for(folded.opset_import, ignore_unknown=True)
    feature_map = feature_map_shape(folded)
    check_input(folded, preprocessing)
    _check_frame(options)
    if takes_uint8(folded) and options.input_type != "uint8":
        raise FoldcamError(
            "The network normalises uint8 images itself, in its first convolution: pass --input "
            "uint8, or export the network again."
        )
    free_names(folded.graph)
    return folded, feature_map


def begun(folded: onnx.ModelProto, preprocessing: Preprocessing, options: FoldOptions) -> Graft:
    """Where nodes are added to an `opened` network, which takes the asked type of image now."""
    graft = Graft(folded.graph, opset_of(folded))
    if options.input_type == "uint8" and not takes_uint8(folded):
        graft_uint8_input(graft, preprocessing)
    if options.frame is not None:
        graft_frame(graft, options.frame, preprocessing)
    return graft


def _check_frame(options: FoldOptions) -> None:
    if options.frame is None:
        return
    width, height = options.frame
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise FoldcamError(f"--frame {width}x{height}: each side must be from 1 to {MAX_SIDE}.")
    if options.input_type != "uint8":
        raise FoldcamError(
            "--frame takes the camera's bytes: use --input uint8, or --frame none with foldcam "
            "fold to take the network's input again."
        )


def closed(folded: onnx.ModelProto, contract: Contract) -> onnx.ModelProto:
    """Declare the outputs of a folded model, write its contract into it, and check it."""
    _replace_outputs(folded.graph, contract)
    entry = folded.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, contract.to_json()
    onnx.checker.check_model(folded, full_check=True)
    return folded


def default_baseline(summands: SummandKind, continuous: bool) -> Baseline:
    """What measured better for a kind of head, see docs/method.md."""
    return "mean" if summands in ("depthwise", "linear") and not continuous else "none"


def _explanation(bank: Bank, options: FoldOptions, query: int) -> Explanation | None:
    """What the maps are made of; None for a bank of before there was a choice."""
    if bank.summands is None:
        return None
    baseline = options.baseline
    if baseline is None:
        baseline = default_baseline(bank.summands, bank.outcome is not None)
        if bank.mean_summands is None:
            baseline = "none"
    if baseline == "mean" and bank.mean_summands is None:
        raise FoldcamError(
            "--baseline mean: the bank does not hold the mean over its training images: build it "
            "again, or leave --baseline out."
        )
    return Explanation(bank.summands, baseline, bank.rule, query)


def optional_outputs(explanation: Explanation | None, options: FoldOptions) -> tuple[str, ...]:
    """The outputs beside those of every folded model."""
    if explanation is None:
        return ()
    return (CONTRIBUTION, CONTRAST) if options.contrast else (CONTRIBUTION,)


def _norm(graft: Graft, head_end: str, size: int) -> str:
    """`|z|`, `float32 [N, 1]`, whatever dimensions of 1 are around `z`."""
    shape = graft.constant("head_end_shape", [-1, size], np.int64)
    rows = graft.node("Reshape", [head_end, shape], PREFIX + "head_end")
    return graft_norm(graft, rows, "head_end_norm")


def _replace_outputs(graph: onnx.GraphProto, contract: Contract) -> None:
    kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    refill(
        graph.output,
        [
            helper.make_tensor_value_info(
                tensor.name, kinds[tensor.dtype], [BATCH, *tensor.shape[1:]]
            )
            for tensor in expected_tensors(contract)[1]
        ],
    )


def _clamped(flag: str, wanted: int, bank: Bank, stored: StoredBank) -> int:
    most, why = bank.rows, f"the bank's {bank.rows} rows"
    if stored.most_neighbors() < most:
        most, why = stored.most_neighbors(), f"the {stored.storage.probes} searched lists hold"
    return most_found(flag, wanted, most, why)


def most_found(flag: str, wanted: int, most: int, why: str) -> int:
    """How many rows are looked for, of those that there are and that can be sorted."""
    if wanted < 1:
        raise FoldcamError(f"{flag} is {wanted}; it must be at least 1.")
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


def heatmap_size_of(
    wanted: HeatmapSize, native: tuple[int, int], preprocessing: Preprocessing
) -> tuple[int, int]:
    """`(height, width)` of the maps.

    Args:
        wanted: what was asked for.
        preprocessing: whose size is the input's.
    """
    if wanted == "native":
        return native
    if wanted == "input":
        return preprocessing.height, preprocessing.width
    if min(wanted) < 1:
        raise FoldcamError(f"--heatmap-size {wanted[1]}x{wanted[0]}: both must be at least 1.")
    return wanted
