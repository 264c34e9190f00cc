"""Fold: ONNX embedding network + bank -> folded ONNX. Needs onnx and numpy, never torch.

What is grafted, for a batch of images:

    e          = embedding / |embedding|
    similarity = e . bank rows                          one MatMul
    neighbor   = the k most similar rows                ArgMax for k = 1, else TopK
    a          = mean of the grad-weights of the first `transfer` of them
    heat       = relu(a . A)                            one MatMul over the channels
    heatmap    = heat / max(heat)                       per image; zeros stay zeros
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.bank import Bank
from export.embedding_model import BATCH, FEATURE_MAP, opset_of, strip_origin
from export.onnx_search import find_normalization
from runtime.contract import (
    EMBEDDING,
    HEATMAP,
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

PREFIX = "foldcam."
BANK_EMBEDDINGS = PREFIX + "bank_embeddings"
BANK_GRAD_WEIGHTS = PREFIX + "bank_grad_weights"
BANK_GRAD_INDEX = PREFIX + "bank_grad_index"

# Below this the norm of an embedding, or an image's greatest heat, counts as zero.
_TINY_NORM = 1e-12
_TINY_HEAT = 1e-20

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
    channels, height, width = _feature_map_shape(folded)
    _check_input(folded, preprocessing)
    _free_names(folded.graph)
    _check_sizes(folded, bank, channels)
    transfer = _clamped("--transfer", options.transfer, bank.rows)
    neighbors = _clamped("--neighbors", options.neighbors, bank.rows)
    heatmap_size = _heatmap_size(options.heatmap_size, (height, width), preprocessing)
    normalized = find_normalization(folded.graph, EMBEDDING) is not None

    graft = _Graft(folded.graph, opset_of(folded))
    if options.input_type == "uint8":
        _graft_uint8_input(graft, preprocessing)
    rows = _graft_neighbors(graft, bank, max(transfer, neighbors), neighbors)
    grad_weights = _graft_transfer(graft, bank, rows, transfer, max(transfer, neighbors))
    _graft_heatmap(graft, grad_weights, (channels, height, width), heatmap_size)
    _replace_outputs(folded.graph, neighbors, heatmap_size)

    contract = Contract(
        preprocessing=preprocessing,
        input_type=options.input_type,
        layer=layer,
        feature_map=(channels, height, width),
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
        if tensor.name in (BANK_EMBEDDINGS, BANK_GRAD_WEIGHTS, BANK_GRAD_INDEX)
    }
    if BANK_EMBEDDINGS not in arrays or BANK_GRAD_WEIGHTS not in arrays:
        raise FoldcamError("The folded model's bank is missing from its graph.")
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
    )


class _Graft:
    """Adds nodes and constants, all named under `foldcam.`, to a graph."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.graph = graph
        self._opset = opset

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """Add an initializer; returns its name."""
        full = name if name.startswith(PREFIX) else PREFIX + name
        self.graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype)), full)
        )
        return full

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        self.nodes(op, inputs, [output], **attributes)
        return output

    def reduce(self, op: str, source: str, axis: int, output: str) -> str:
        """Add a reduction over one axis, which stays with size 1; returns the output's name."""
        if self._opset < 18:
            return self.node(op, [source], output, axes=[axis], keepdims=1)
        axes = self.constant(f"{output.removeprefix(PREFIX)}_axes", [axis], np.int64)
        return self.node(op, [source, axes], output, keepdims=1)

    def nodes(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node with several outputs."""
        name = PREFIX + outputs[0].removeprefix(PREFIX)
        self.graph.node.append(helper.make_node(op, inputs, outputs, name=name, **attributes))


def _graft_neighbors(graft: _Graft, bank: Bank, found: int, reported: int) -> str:
    """Similarity to every row and the nearest `found`; returns their indices `int64 [N, found]`."""
    norm = graft.reduce("ReduceL2", EMBEDDING, 1, PREFIX + "norm")
    tiny = graft.constant("tiny_norm", _TINY_NORM, np.float32)
    safe = graft.node("Max", [norm, tiny], PREFIX + "safe_norm")
    unit = graft.node("Div", [EMBEDDING, safe], PREFIX + "unit_embedding")
    transposed = graft.constant(BANK_EMBEDDINGS, bank.embeddings.T, np.float32)
    similarities = graft.node("MatMul", [unit, transposed], PREFIX + "similarities")
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
    _slice_columns(graft, values, reported, SIMILARITY)
    kept = _slice_columns(graft, rows, reported, PREFIX + "reported_rows")
    graft.node("Cast", [kept], NEIGHBOR, to=TensorProto.INT32)
    return rows


def _graft_transfer(graft: _Graft, bank: Bank, rows: str, transfer: int, found: int) -> str:
    """Grad-weights for each image, `float32 [N, 1, K]`."""
    used = rows if transfer == found else _slice_columns(graft, rows, transfer, PREFIX + "used")
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


def _graft_heatmap(
    graft: _Graft,
    grad_weights: str,
    feature_map: tuple[int, int, int],
    heatmap_size: tuple[int, int],
) -> None:
    channels, height, width = feature_map
    flat = graft.constant("flat_map", [-1, channels, height * width], np.int64)
    positions = graft.node("Reshape", [FEATURE_MAP, flat], PREFIX + "positions")
    signed = graft.node("MatMul", [grad_weights, positions], PREFIX + "signed_heat")
    heat = graft.node("Relu", [signed], PREFIX + "heat")
    greatest = graft.reduce("ReduceMax", heat, 2, PREFIX + "greatest_heat")
    # Without heat anywhere: zero divided by something above zero.
    tiny = graft.constant("tiny_heat", _TINY_HEAT, np.float32)
    safe = graft.node("Max", [greatest, tiny], PREFIX + "safe_heat")
    scaled = graft.node("Div", [heat, safe], PREFIX + "scaled_heat")
    shape = graft.constant("map_shape", [-1, 1, height, width], np.int64)
    native = heatmap_size == (height, width)
    name = HEATMAP if native else PREFIX + "native_heatmap"
    graft.node("Reshape", [scaled, shape], name)
    if not native:
        scales = [
            1.0,
            1.0,
            *(_scale(*pair) for pair in zip(heatmap_size, (height, width), strict=True)),
        ]
        graft.node(
            "Resize",
            [name, "", graft.constant("scales", scales, np.float32)],
            HEATMAP,
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )


def _graft_uint8_input(graft: _Graft, preprocessing: Preprocessing) -> None:
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


def _slice_columns(graft: _Graft, name: str, count: int, output: str) -> str:
    start = graft.constant(f"{output.removeprefix(PREFIX)}_start", [0], np.int64)
    end = graft.constant(f"{output.removeprefix(PREFIX)}_end", [count], np.int64)
    axis = graft.constant(f"{output.removeprefix(PREFIX)}_axis", [1], np.int64)
    return graft.node("Slice", [name, start, end, axis], output)


def _scale(wanted: int, size: int) -> float:
    """A float32 scale for Resize, whose output size is `floor(size * scale)`."""
    scale: np.float32 = np.float32(wanted / size)
    # Some readers multiply in float32, others in float64.
    while min(float(np.float32(size) * scale), size * float(scale)) < wanted:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)


def _replace_outputs(graph: onnx.GraphProto, neighbors: int, heatmap_size: tuple[int, int]) -> None:
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
    for name, dtype, shape in shapes:
        graph.output.append(helper.make_tensor_value_info(name, dtype, shape))


def _feature_map_shape(model: onnx.ModelProto) -> tuple[int, int, int]:
    outputs = {value.name: value for value in model.graph.output}
    for name in (FEATURE_MAP, EMBEDDING):
        if name not in outputs:
            raise FoldcamError(
                f"The model has no output {name!r} (it has {', '.join(outputs)}): fold needs an "
                "embedding network exported with its feature map."
            )
    shape = [dim.dim_value for dim in outputs[FEATURE_MAP].type.tensor_type.shape.dim]
    if len(shape) != 4 or min(shape[1:]) < 1:
        raise FoldcamError(f"The output {FEATURE_MAP!r} has no fixed shape [N, K, h, w].")
    return shape[1], shape[2], shape[3]


def _check_input(model: onnx.ModelProto, preprocessing: Preprocessing) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if [value.name for value in inputs] != [IMAGE]:
        raise FoldcamError(
            f"The model's inputs are {', '.join(value.name for value in inputs) or 'none'} where "
            f"fold needs one, {IMAGE!r}."
        )
    sizes = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
    wanted = [3, preprocessing.height, preprocessing.width]
    # Zero stands for a size that the file leaves open.
    if len(sizes) != 4 or any(
        has not in (0, needs) for has, needs in zip(sizes[1:], wanted, strict=True)
    ):
        raise FoldcamError(
            f"The model takes images of shape {sizes[1:]} and its preprocessing makes {wanted}."
        )


def _free_names(graph: onnx.GraphProto) -> None:
    """Rename what in the network has the name of one of the folded model's outputs."""
    taken = {HEATMAP: "network.heatmap", NEIGHBOR: "network.neighbor"}
    taken[SIMILARITY] = "network.similarity"
    for tensor in graph.initializer:
        tensor.name = taken.get(tensor.name, tensor.name)
    for value in graph.value_info:
        value.name = taken.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = taken.get(name, name)


def _check_sizes(model: onnx.ModelProto, bank: Bank, channels: int) -> None:
    outputs = {value.name: value for value in model.graph.output}
    size = outputs[EMBEDDING].type.tensor_type.shape.dim[1].dim_value
    for what, has, needs in (
        ("embeddings of size", bank.embedding_size, size),
        ("grad-weights for channels", bank.channels, channels),
    ):
        if has != needs:
            raise FoldcamError(
                f"The bank was made by another network: it holds {what} {has} and the network has "
                f"{needs}; build the bank with this network."
            )


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
