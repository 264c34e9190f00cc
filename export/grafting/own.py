"""Grad-weights at the image's own `s`, in the graph: directions of the bank, pulled back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from foldcam.export.grafting.pull_back import graft_pull_back, obstacle_to_pull_back
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP, FEATURE_SUM, marked_summands
from foldcam.export.onnx_graphs.normalization import find_normalization
from foldcam.export.onnx_graphs.precision import name_made
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import EMBEDDING, GradWeightsRule, SummandKind
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    # Folding needs no torch.
    from foldcam.export.networks.cut import Network

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
