"""Fold a classifier: its own scores are the search, its last layers the bank. No torch.

What is grafted, for a batch of images:

    neighbor     = the k classes of the greatest logits  ArgMax for k = 1, else TopK
    similarity   = their scores, as the network returns them
    a            = the grad-weights of the best class
    contribution = a . S_p                               in units of the logit, signed
    heatmap      = relu(contribution) / max(relu(contribution))
    contrast     = the same of the best class less that of the second best

With a pooling and a linear layer behind the feature map this is Grad-CAM (Selvaraju et al., 2017,
https://arxiv.org/abs/1610.02391) of the best class's logit, for which the gradient is the same at
every position. Logits are ranked, and not what a softmax or sigmoid made of them, because many
probabilities may round to 1, or to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.fold import (
    FoldOptions,
    begun,
    closed,
    heatmap_size_of,
    most_found,
    opened,
    optional_outputs,
)
from foldcam.export.grafting.heat import MapGraft
from foldcam.export.grafting.in_graph import BANK_GRAD_WEIGHTS, StoredBank, sha256_of
from foldcam.export.grafting.own import OwnGradWeights, obstacle_to_pull_back
from foldcam.export.grafting.transfer import graft_transfer
from foldcam.export.onnx_graphs.embedding_model import (
    FEATURE_MAP,
    FEATURE_SUM,
    marked_network,
    marked_summands,
    opset_of,
)
from foldcam.export.onnx_graphs.message import check_file_size, weight_bytes
from foldcam.export.onnx_graphs.normalization import find_logits
from foldcam.export.onnx_graphs.precision import is_float16, to_float16
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.export.onnx_graphs.values import Flow, attributes_of
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.bank_storage import BankStorage
from foldcam.runtime.contract.schema import (
    EMBEDDING,
    IMAGE,
    NEIGHBOR,
    RUNNER_UP,
    RUNNER_UP_SIMILARITY,
    SIMILARITY,
    BankSummary,
    Contract,
    Explanation,
    GradWeightsRule,
    LabelRun,
    Origin,
    SummandKind,
)
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

OBJECTIVE = "class-scores"
"""What the directions of a classifier come from."""


def fold_classifier(
    model: onnx.ModelProto,
    names: Sequence[str],
    *,
    preprocessing: Preprocessing,
    layer: str,
    origin: Origin,
    versions: dict[str, str],
    options: FoldOptions | None = None,
) -> onnx.ModelProto:
    """Graft ranking and heatmap onto a classifier's graph.

    Args:
        model: `image float32 [N,3,H,W]` -> `feature_map [N,K',h,w]`, `embedding [N,C]`, the
            scores, as `ClassifierNetwork.to_onnx` makes it. Not changed.
    """
    options = options or FoldOptions()
    folded, feature_map = opened(model, preprocessing, options)
    summands, query = marked_summands(model)
    logits, scores = find_logits(folded.graph, EMBEDDING)
    classes = class_rows(folded, logits, len(names), (summands, query), feature_map)
    if options.precision == "fp16" and not is_float16(folded):
        folded = to_float16(folded)
    size = heatmap_size_of(options.heatmap_size, feature_map[1:], preprocessing)
    if options.contrast and len(names) < 2:
        raise FoldcamError("--contrast compares two classes, and the network has one.")
    neighbors = most_found("--neighbors", options.neighbors, len(names), "the classes")
    bank = Bank(
        # The scores are compared with nothing.
        embeddings=np.ones((len(names), 1), np.float32),
        grad_weights=classes.rows,
        grad_index=np.arange(len(names), dtype=np.int32),
        labels=tuple(LabelRun(name, 1) for name in names),
        objective=OBJECTIVE,
        network_sha256=marked_network(model) or "",
        summands=summands,
        rule=classes.rule,
    )
    arrays = {BANK_GRAD_WEIGHTS: classes.rows}
    storage = BankStorage("exhaustive", 0, 0, 0, "float32", "float32", 0, sha256_of(arrays))
    stored = StoredBank(arrays, storage)

    network_bytes = weight_bytes(folded)
    graft = begun(folded, preprocessing, options)
    # Halves have other names.
    logits, _ = find_logits(folded.graph, EMBEDDING)
    found = max(neighbors, 2 if options.contrast else 1)
    rows = _ranked(graft, logits, len(names), found)
    _reported(graft, rows, neighbors, found)
    maps = MapGraft(graft, feature_map, size, None)
    own = None
    if classes.rule == "own":
        own = OwnGradWeights(
            graft, classes.end, summands, query, feature_map, classes.rows.shape[1]
        )

    def signed(best: str, count: int, name: str) -> str:
        taken = graft_transfer(graft, stored, best, 1, count, f"{name}_gathered").rows
        return maps.signed(taken if own is None else own.at(taken, name), f"{name}_heat")

    best = signed(rows, found, "class")
    maps.heatmap(best)
    maps.contribution(best)
    if options.contrast:
        second = graft.constant("second", [1], np.int64)
        row = graft.node("Gather", [rows, second], PREFIX + "second_class", axis=1)
        score = graft.node("GatherElements", [EMBEDDING, row], PREFIX + "second_score", axis=1)
        flat = graft.constant("one_per_image_flat", [-1], np.int64)
        graft.node("Reshape", [score, flat], RUNNER_UP_SIMILARITY)
        whole = graft.node("Cast", [row], PREFIX + "second_whole", to=TensorProto.INT32)
        graft.node("Reshape", [whole, flat], RUNNER_UP)
        maps.contrast(best, signed(row, 1, "runner_up"))

    check_file_size(network_bytes, weight_bytes(folded) - network_bytes, len(names))
    explanation = Explanation(summands, "none", classes.rule, query)
    contract = Contract(
        preprocessing=preprocessing,
        input_type=options.input_type,
        layer=layer,
        feature_map=feature_map,
        normalized=False,
        heatmap_size=size,
        transfer=1,
        neighbors=neighbors,
        bank=BankSummary(
            rows=len(names),
            embedding_size=len(names),
            channels=bank.channels,
            grad_weight_rows=len(names),
            objective=bank.objective,
            channel_rule=bank.channel_rule,
            compression=bank.compression,
            sha256=bank.sha256(),
        ),
        labels=bank.labels,
        origin=origin,
        versions=versions,
        precision=options.precision,
        explanation=explanation,
        optional_outputs=optional_outputs(explanation, options),
        scores=scores,
        frame=options.frame,
    )
    return closed(folded, contract)


def _ranked(graft: Graft, logits: str, classes: int, found: int) -> str:
    """The classes of the greatest logits, best first: int64 `[N, found]`."""
    shape = graft.constant("logits_shape", [-1, classes], np.int64)
    flat = graft.node("Reshape", [logits, shape], PREFIX + "logits")
    exact = graft.node("Cast", [flat], PREFIX + "exact_logits", to=TensorProto.FLOAT)
    if found == 1:
        # Cheaper than TopK in every backend.
        return graft.node("ArgMax", [exact], PREFIX + "rows", axis=1, keepdims=1)
    count = graft.constant("found", [found], np.int64)
    outputs = [PREFIX + "greatest_logits", PREFIX + "rows"]
    graft.nodes("TopK", [exact, count], outputs, axis=1, sorted=1)
    return outputs[1]


def _reported(graft: Graft, rows: str, reported: int, found: int) -> None:
    """`neighbor` and `similarity`: the first classes and their scores."""
    kept = rows
    if reported < found:
        kept = graft.first_columns(rows, reported, PREFIX + "reported_rows")
    graft.node("Cast", [kept], NEIGHBOR, to=TensorProto.INT32)
    graft.node("GatherElements", [EMBEDDING, kept], SIMILARITY, axis=1)


Floats = npt.NDArray[np.float32]

_DIRECTION = f"{PREFIX}direction"
_TRANSPARENT = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout"}


@dataclass(frozen=True)
class ClassRows:
    """One row per class, from the classifier's own last layers.

    The score of a class is `l_c = W_c . h + b_c`, so that its direction is `W_c` at the last linear
    layer's input `h`. Where what lies between the sum over positions and `h` is linear, its
    grad-weights are the same for every image; elsewhere the graph pulls `W_c` back at each image.

    Attributes:
        rows: `float32 [C, K']` grad-weights where `rule` is `transferred`; where it is `own`,
            directions `float32 [C, H]`, which the graph pulls back from `end` at each image.
        end: the name of the value that the directions belong to.
    """

    rows: Floats
    rule: GradWeightsRule
    end: str


def class_rows(
    model: onnx.ModelProto,
    logits: str,
    classes: int,
    summands: tuple[SummandKind, int],
    feature_map: tuple[int, int, int],
) -> ClassRows:
    """The rows of a classifier's classes.

    Args:
        model: in float32, as `opened` gives it; not changed.
    """
    kind, query = summands
    row = query if kind == "attention" else None
    source = FEATURE_MAP if kind == "none" else FEATURE_SUM
    found = _last_linear(model.graph, logits)
    # A flattened map's one linear layer is the sum itself, and its input lies before it.
    if found is None or obstacle_to_pull_back(model, source, found[0], row) is not None:
        found = logits, np.eye(classes, dtype=np.float32)
        obstacle = obstacle_to_pull_back(model, source, logits, row)
        if obstacle is not None:
            no_sum = (
                "its logits are no function of one sum over positions, as behind an average pool, "
                "a class token or a flattened map, and "
            )
            raise FoldcamError(
                f"The classifier cannot be folded: {no_sum if kind == 'none' else ''}the graph "
                f"cannot compute the gradient of its logits: {obstacle}."
            )
    end, directions = found
    scratch = onnx.ModelProto()
    scratch.CopyFrom(model)
    graft = Graft(scratch.graph, opset_of(scratch))
    size = directions.shape[1]
    own = OwnGradWeights(graft, end, kind, query, feature_map, size)
    pulled = own.at(_DIRECTION, "class")
    flow = Flow(scratch.graph)
    needed = sorted(flow.needed_for([pulled], [_DIRECTION]))
    if IMAGE in {name for number in needed for name in flow.inputs[number]}:
        return ClassRows(directions, "own", end)
    # Nothing of the image is read on the way: the same for all.
    nodes = [flow.nodes[number] for number in needed]
    del scratch.graph.node[:], scratch.graph.input[:], scratch.graph.output[:]
    scratch.graph.node.extend(nodes)
    given = helper.make_tensor_value_info(_DIRECTION, TensorProto.FLOAT, [None, 1, size])
    scratch.graph.input.append(given)
    scratch.graph.output.append(helper.make_tensor_value_info(pulled, TensorProto.FLOAT, None))
    (rows,) = GraphSession(scratch, [pulled]).run(directions[:, None])
    return ClassRows(np.ascontiguousarray(rows[:, 0], np.float32), "transferred", end)


def _last_linear(graph: onnx.GraphProto, logits: str) -> tuple[str, Floats] | None:
    """Input and rows `float32 [C, H]` of the linear layer that ends in the logits, if one does."""
    producers = {str(name): node for node in graph.node for name in node.output}
    constants = {str(tensor.name): tensor for tensor in graph.initializer}
    node = producers.get(logits)
    while node is not None and node.op_type in _TRANSPARENT | {"Add"}:
        moving = [name for name in node.input if name not in constants]
        if node.op_type == "Add" and len(moving) != 1:
            return None
        node = producers.get(moving[0] if node.op_type == "Add" else node.input[0])
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        return None
    if node.input[1] not in constants or node.input[0] in constants:
        return None
    attributes = attributes_of(node)
    weights = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
    if weights.ndim != 2 or attributes.get("transA", 0):
        return None
    rows = weights if attributes.get("transB", 0) else weights.T
    return str(node.input[0]), np.ascontiguousarray(rows) * np.float32(attributes.get("alpha", 1.0))
