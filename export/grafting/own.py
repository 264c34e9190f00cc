"""Grad-weights at the image's own `s`, in the graph: directions of the bank, pulled back.

What a reverse pass computes is written as forward nodes: the graph's nodes between `s` and the
head's end are walked from the end to `s`, and each adds the few nodes of its derivative, at the
values that the network has for the image at hand. Normalisations on the way are differentiated
with their scale held constant, as `torch_cut.hold_scales` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP, FEATURE_SUM, marked_summands
from foldcam.export.onnx_graphs.normalization import find_normalization
from foldcam.export.onnx_graphs.precision import name_made
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import EMBEDDING, GradWeightsRule, SummandKind
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    # Folding needs no torch.
    from foldcam.export.networks.cut import Network


from math import prod

from foldcam.export.onnx_graphs.adjoints.rules import rule_of
from foldcam.export.onnx_graphs.adjoints.step import Step
from foldcam.export.onnx_graphs.adjoints.tape import BATCH_SIZE, ObstacleError, Row, Tape, sizes_at
from foldcam.export.onnx_graphs.embedding_model import opset_of
from foldcam.export.onnx_graphs.normalization import scales_of
from foldcam.export.onnx_graphs.value_sizes import inferred_in_batch
from foldcam.export.onnx_graphs.values import Flow

_MEANS = {"GlobalAveragePool", "ReduceMean"}
# What may lie between a sum and its root.
_BEFORE_ROOT = {"Abs", "Cast", "Clip", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose"}


class OwnGradWeights:
    """Pulls directions back at each image."""

    def __init__(
        self,
        graft: Graft,
        head_end: str,
        summands: SummandKind,
        query: int,
        feature_map: tuple[int, int, int],
        size: int,
    ) -> None:
        self._graft, self._head_end = graft, head_end
        self._row = query if summands == "attention" else None
        self._size = size
        channels, height, width = feature_map
        self._channels = channels
        self._factor, self._cells = 1.0, height * width
        self._summed = summands != "none"
        if not self._summed:
            return
        total = name_made(graft.graph, FEATURE_SUM)
        maker = next((node for node in graft.graph.node if total in node.output), None)
        mean = maker is not None and maker.op_type in _MEANS
        # `s` is the mean of the summands, or their sum.
        if mean:
            self._factor = 1.0 / (height * width)

    def at(self, directions: str, name: str) -> str:
        """`float32 [N, 1, D]` -> grad-weights `float32 [N, 1, K']` at each image."""
        graft = self._graft
        flat = graft.constant(f"{name}_direction_shape", [-1, self._size], np.int64)
        rows = graft.node("Reshape", [directions, flat], f"{PREFIX}{name}_direction")
        source = FEATURE_SUM if self._summed else FEATURE_MAP
        pulled = graft_pull_back(graft, source, self._head_end, rows, self._row)
        if not self._summed:
            by_cell = graft.constant(f"{name}_cells_shape", [-1, self._channels, self._cells],
                                     np.int64)  # fmt: skip
            cells = graft.node("Reshape", [pulled, by_cell], f"{PREFIX}{name}_cells")
            pulled = graft.reduce("ReduceMean", cells, 2, f"{PREFIX}{name}_mean_of_cells")
        if self._factor != 1.0:
            factor = graft.constant(f"{name}_share", self._factor, np.float32)
            pulled = graft.node("Mul", [pulled, factor], f"{PREFIX}{name}_shared")
        shape = graft.constant(f"{name}_own_shape", [-1, 1, self._channels], np.int64)
        return graft.node("Reshape", [pulled, shape], f"{PREFIX}{name}_own")


def chosen_grad_weights(network: Network, wanted: GradWeightsRule | None) -> GradWeightsRule:
    """Where grad-weights come from: what was asked for, or what measured better.

    A class token's head is not linear, and the image's own gradient costs next to nothing there.
    A generalised mean loses its question by transfer: the gradient of its root grows without
    limit where a channel is silent in the bank's image. For the other kinds transfer loses
    nothing that was measured, see docs/method.md.

    Args:
        wanted: what was asked for, None to choose.
    """
    if wanted == "transferred" or (wanted is None and network.summands == "none"):
        return "transferred"
    model = network.to_onnx()
    if wanted is None and network.summands != "attention" and not takes_root(model):
        return "transferred"
    obstacle = obstacle_to_own(model)
    if obstacle is None:
        return "own"
    if wanted is None:
        return "transferred"
    raise FoldcamError(
        f"The network cannot compute its own grad-weights: {obstacle}; leave --grad-weights out, "
        "or pass --grad-weights transferred."
    )


def takes_root(model: onnx.ModelProto) -> bool:
    """Whether a root is taken of the sum over positions, as a generalised mean does."""
    constants = {str(each.name): each for each in model.graph.initializer}
    reached = {FEATURE_SUM}
    # Nodes of a graph are in an order in which each comes after what it reads.
    for node in model.graph.node:
        if not node.input or node.input[0] not in reached:
            continue
        if node.op_type == "Sqrt":
            return True
        if node.op_type == "Pow":
            exponent = constants.get(str(node.input[1]))
            return exponent is None or bool((numpy_helper.to_array(exponent) < 1).any())
        if node.op_type in _BEFORE_ROOT:
            reached.update(str(name) for name in node.output)
    return False


def obstacle_to_own(model: onnx.ModelProto) -> str | None:
    """Why the graph cannot compute its own grad-weights, as a clause; None where it can."""
    kind, query = marked_summands(model)
    if kind == "none":
        return "its embedding is no function of one sum over positions"
    end = find_normalization(model.graph, EMBEDDING) or EMBEDDING
    return obstacle_to_pull_back(model, FEATURE_SUM, end, query if kind == "attention" else None)


def graft_pull_back(
    graft: Graft, source: str, end: str, direction: str, row: int | None = None
) -> str:
    """Add `a = (dz/ds)^T v`, for each image of the batch at its own `s`.

    Args:
        source: name of `s`, with the batch as its first axis longer than 1: `[N, K]`,
            `[N, K, 1, 1]`, or an attention's `[N, H, Q, d]` or `[N * H, Q, d]`. The names are
            those of the network before `to_float16`, if it was converted.
        end: name of `z [N, D]`, whatever axes of 1 it has: the input of the final L2
            normalisation, or the embedding.
        direction: name of `v`, `float32 [N, D]`.
        row: of an attention's last axis but one, the query of which `a` is asked for; only that
            row of everything behind it is computed. None for all of `s`.

    Returns:
        The name of `a`, `float32 [N, K']`. Of a row of an attention `K'` is `H * d`, the heads
        side by side.
    """
    try:
        return _graft(graft, source, end, direction, row)
    except ObstacleError as error:
        raise FoldcamError(
            f"The graph cannot compute its own grad-weights: {error}; use --grad-weights "
            "transferred."
        ) from error


def obstacle_to_pull_back(
    model: onnx.ModelProto, source: str, end: str, row: int | None = None
) -> str | None:
    """Why `graft_pull_back` cannot be used, None where it can."""
    # A copy without the weights, of which no rule reads the numbers.
    scratch = inferred_in_batch(model.graph, opset_of(model), BATCH_SIZE).graph
    try:
        _graft(Graft(scratch, opset_of(model)), source, end, "direction", row)
    except ObstacleError as error:
        return str(error)
    return None


def _graft(graft: Graft, source: str, end: str, direction: str, row: int | None) -> str:
    source, end = (name_made(graft.graph, name) for name in (source, end))
    tape = Tape(graft)
    steps = _steps(tape, graft.graph, source, end, row)
    if end not in tape.rows:
        raise ObstacleError(f"the value {end!r} does not depend on {source!r}")
    sizes, whole = tape.sizes_of(end), tape.rows[end]
    _check_images_first(end, sizes)
    start = direction if len(sizes) == 2 else tape.reshape(direction, sizes)
    adjoints = {end: tape.narrow(start, sizes, whole)}
    for step, held in reversed(steps):
        rule = rule_of(step.node)
        for output, made in enumerate(step.outputs):
            if made not in adjoints or made not in tape.rows:
                continue
            for position in step.depending():
                name = step.inputs[position]
                if name in held:
                    continue
                pulled = rule.pull(step, position, output, adjoints[made])
                before = adjoints.get(name)
                adjoints[name] = pulled if before is None else tape.op("Add", before, pulled)
    if source not in adjoints:
        raise ObstacleError(f"no gradient of {end!r} reaches {source!r}")
    kept = sizes_at(tape.sizes_of(source), tape.rows[source])
    _check_images_first(source, kept)
    return tape.reshape(adjoints[source], [BATCH_SIZE, prod(kept) // BATCH_SIZE])


def _steps(
    tape: Tape, graph: onnx.GraphProto, source: str, end: str, row: int | None
) -> list[tuple[Step, set[str]]]:
    """The nodes between source and end, with what of them is held; fills in `tape.rows`."""
    sizes = tape.sizes_of(source)
    tape.rows[source] = None
    if row is not None:
        if len(sizes) < 3 or not -sizes[-2] <= row < sizes[-2]:
            raise ObstacleError(f"the value {source!r} has no row {row}")
        if sizes[-2] > 1:
            tape.rows[source] = Row(len(sizes) - 2, sizes[-2], row % sizes[-2])
    flow = Flow(graph)
    between = flow.after(source) & flow.needed_for([end], [source])
    steps = []
    for number in sorted(between):
        step = Step(tape, flow.nodes[number])
        if not step.depending():
            continue
        reached = rule_of(step.node).reach(step)
        if reached:
            tape.rows.update({step.outputs[at]: found for at, found in reached.items()})
            steps.append((step, _held(tape, graph, step)))
    return steps


def _held(tape: Tape, graph: onnx.GraphProto, step: Step) -> set[str]:
    """The norms that a product scales its rows by, see `torch_cut.hold_scales`."""
    expanded = {str(n) for node in graph.node if node.op_type == "Expand" for n in node.output}
    return {
        name
        for name in scales_of(graph, step.node)
        if name in tape.rows and (name in expanded or tape.sizes_of(name) != step.made())
    }


def _check_images_first(name: str, sizes: tuple[int, ...]) -> None:
    """Refuse a value in which the images of a batch do not follow each other."""
    leading = next((size for size in sizes if size != 1), 0)
    if not leading or leading % BATCH_SIZE:
        raise ObstacleError(f"the batch is not the first axis of the value {name!r}")
