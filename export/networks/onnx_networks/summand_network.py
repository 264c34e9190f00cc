"""A network cut at its sum over positions: its feature map are the summands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from foldcam.export.networks.cut import Activations, Network
from foldcam.export.networks.feature_map import Layout
from foldcam.export.networks.feature_map_search import is_spread
from foldcam.export.networks.onnx_networks.cut_points import find_head_end, spatial_values
from foldcam.export.networks.onnx_networks.head import OnnxHead
from foldcam.export.networks.onnx_networks.prepare import Prepared, noise
from foldcam.export.networks.onnx_networks.rewrite import Shape
from foldcam.export.networks.onnx_networks.summand_nodes import add_summands
from foldcam.export.networks.onnx_networks.summands import NoSumError, Summation, find_summation
from foldcam.export.networks.onnx_torch.arrangement import to_torch
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.embedding_model import (
    BATCH,
    FEATURE_MAP,
    FEATURE_SUM,
    mark_network,
    strip_origin,
)
from foldcam.export.onnx_graphs.precision import is_float16
from foldcam.export.onnx_graphs.session import Array, GraphSession, reason
from foldcam.export.onnx_graphs.values import Flow, prune, refill, rename
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE
from foldcam.runtime.system.errors import FoldcamError

# A gradient below this share of the greatest one counts as none.
_NO_GRADIENT = 1e-6


class SummandNetwork(Network):
    """An embedding network whose feature map are the summands `S` of its sum over positions.

    `z = g(factor * sum_p S_p + rest)`: the gradient with respect to `S_p` is the same at every
    position, so that the grad-weights `a`, its spatial mean, lose nothing, and `a . S_p` is
    what position `p` adds to `v . z`. The trunk runs in ONNX Runtime, the head in torch.

    Args:
        base: the network, cut at its last spatial activation.
        device: where the trunk runs.

    Attributes:
        base: as given.

    Raises:
        NoSumError: there is no such sum; the message is a clause that says why.
    """

    def __init__(self, base: Network, device: Device = CPU) -> None:
        self.base = base
        self._models: dict[int, onnx.ModelProto] = {}
        analysed = _analysed(base, base.to_onnx())
        self.summation = summation = analysed.summation
        self.summands = summation.kind
        super().__init__(replace(base.points(), feature_map_shape=summation.shape))
        self.notes = base.notes
        self._head_of_sum = analysed.head
        model = _with_summands(analysed)
        self._models[18] = _with_ends(model, self, summation)
        names = [FEATURE_MAP, FEATURE_SUM, *analysed.head.context]
        self._session = GraphSession(model, names, device)
        self._check(analysed.embedding)
        # Its trunk is asked no more.
        base.release()

    def _trunk(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arrays = self._session.run(np.ascontiguousarray(images.numpy()))
        summands, total, *context = (to_torch(array) for array in arrays)
        own = self._of_query(total).float()
        rest = own - self.summation.factor * summands.sum(dim=(2, 3))
        return (summands, rest, total, *context)

    def _head(
        self, feature_map: torch.Tensor, *context: torch.Tensor | int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rest, total, *others = context
        assert isinstance(rest, torch.Tensor)
        assert isinstance(total, torch.Tensor)
        summed = self.summation.factor * feature_map.sum(dim=(2, 3)) + rest
        return self._head_of_sum(self._with_query(total, summed), *others)

    def to_onnx(self, opset: int = 18) -> onnx.ModelProto:
        """See `Network.to_onnx`: the feature map are the summands, and `feature_sum` their sum."""
        if opset not in self._models:
            analysed = _analysed(self.base, self.base.to_onnx(opset))
            self._models[opset] = _with_ends(_with_summands(analysed), self, analysed.summation)
        copy = onnx.ModelProto()
        copy.CopyFrom(self._models[opset])
        return copy

    def for_pull_back(self, activations: Activations) -> Activations:
        """See `Network.for_pull_back`: the gradient is the same at every position, so that the
        sum stands for a map of one.
        """
        summed = activations.feature_map.sum(dim=(2, 3), keepdim=True)
        return replace(activations, feature_map=summed)

    def pull_back(self, activations: Activations, directions: torch.Tensor) -> torch.Tensor:
        """See `Network.pull_back`."""
        return super().pull_back(self.for_pull_back(activations), directions)

    def _hashed(self) -> str:
        """Hash of the network itself."""
        return self.base.sha256()

    def _of_query(self, total: torch.Tensor) -> torch.Tensor:
        """The sum as `[N, K']`; of an attention that of the one query."""
        attention = self.summation.attention
        if attention is None:
            return total.flatten(1)
        by_head = total.reshape(-1, attention.heads, attention.queries, attention.head_size)
        return by_head[:, :, attention.row].flatten(1)

    def _with_query(self, total: torch.Tensor, summed: torch.Tensor) -> torch.Tensor:
        """The value of the sum with `[N, K']` in its place."""
        attention = self.summation.attention
        summed = summed.to(total.dtype)
        if attention is None:
            return summed.reshape(total.shape)
        shape = (-1, attention.heads, attention.queries, attention.head_size)
        by_head = total.reshape(shape)
        row = attention.row
        one = summed.reshape(-1, attention.heads, 1, attention.head_size)
        whole = torch.cat([by_head[:, :, :row], one, by_head[:, :, row + 1 :]], dim=2)
        return whole.reshape(total.shape)

    def _check(self, expected: Array) -> None:
        """Whether the summands add up, for each image alone, and the head in torch answers what
        the whole graph answers in ONNX Runtime.

        Args:
            expected: the embeddings `[2, D]` of noise.
        """
        images = torch.from_numpy(noise(self.image_size, 2))
        # Half precision, or sums in another order.
        limit = 2e-2 if is_float16(self._models[18]) else 1e-3
        summands, rest, total, *_ = self._trunk(images)
        for row in range(2):
            alone, *_ = self._trunk(images[row : row + 1])
            if _off(alone, summands[row : row + 1]) > limit:
                raise NoSumError("what is summed of one image depends on the others of its batch")
        # Of no position are a bias and the share of tokens that are no patches.
        spread = float((rest[0] - rest[1]).abs().max())
        if not self.summation.layout.skipped and spread > limit * _size(total):
            raise NoSumError("the positions do not add up to their sum")
        if _off(self.forward(images).embedding, to_torch(expected)) > limit:
            raise NoSumError("what follows the sum gives other numbers in torch")


def with_summands(base: Network, device: Device = CPU) -> Network:
    """The network cut at its sum over positions, or itself, with a note, where it has none.

    Args:
        base: the network, cut at its last spatial activation.
        device: where the trunk runs.
    """
    try:
        return SummandNetwork(base, device)
    except FoldcamError as error:
        why = _clause(error)
    except Exception as error:  # of torch or ONNX Runtime, which no network must fail for
        why = f"looking for it failed: {reason(error)}"
    base.notes = (
        *base.notes,
        f"The embedding is no function of one sum over positions ({why}): the heatmap takes the "
        f"gradient's mean over the positions of {base.layer}, which is less exact.",
    )
    return base


def _clause(error: FoldcamError) -> str:
    """What an error says without its advice, which is for another way to use the network."""
    return str(error).partition(";")[0].rstrip(".")


def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The greatest difference as a share of the greatest number."""
    return float((found - expected).abs().max()) / _size(expected)


def _size(values: torch.Tensor) -> float:
    return max(float(values.abs().max()), 1e-12)


@dataclass(frozen=True)
class _Analysed:
    """A graph with its sum over positions.

    Attributes:
        prepared: the graph, image -> embedding.
        head: what follows the sum.
        kind: the element type of what is summed.
        embedding: `[2, D]` of two images of noise, computed by the whole graph.
    """

    prepared: Prepared
    summation: Summation
    head: OnnxHead
    kind: int
    embedding: Array


def _analysed(base: Network, model: onnx.ModelProto) -> _Analysed:
    """Find the sum in the network as ONNX."""
    refill(model.graph.output, [value for value in model.graph.output if value.name == EMBEDDING])
    rename(model.graph, {}, [FEATURE_MAP, FEATURE_SUM])
    shapes, values = _values(model, base.image_size)
    prepared = Prepared(model, EMBEDDING, base.embedding_size, shapes, ())
    flow = Flow(prepared.model.graph)
    layouts = {
        layer.name: layer.layout for layer in spatial_values(flow, prepared, base.image_size)
    }
    head_end, _, _ = find_head_end(prepared, base.image_size)
    summation = find_summation(prepared.model.graph, prepared.shapes, layouts, head_end)
    head = OnnxHead(prepared, summation.total, head_end)
    context = [to_torch(values[name]) for name in head.context]
    try:
        gradient, beside = _gradients(head, to_torch(values[summation.total]), context)
    except FoldcamError as error:
        raise NoSumError(_clause(error)) from error
    if summation.attention is not None:
        summation = _of_one_query(summation, gradient, beside, layouts, head.context)
    kind = helper.np_dtype_to_tensor_dtype(values[summation.source].dtype)
    return _Analysed(prepared, summation, head, kind, values[EMBEDDING])


def _values(
    model: onnx.ModelProto, image_size: tuple[int, int]
) -> tuple[dict[str, Shape], dict[str, Array]]:
    """The shape of every value of a graph whose batch is dynamic, and each for two images."""
    prune(model.graph)
    names = [str(name) for node in model.graph.node for name in node.output if name]
    session = GraphSession(model, names)
    one, two = (session.run(noise(image_size, count)) for count in (1, 2))
    shapes = {IMAGE: Shape((1, 3, *image_size), 0, 1)}
    for name, first, second in zip(names, one, two, strict=True):
        pairs = enumerate(zip(first.shape, second.shape, strict=True))
        grown = next((axis for axis, (few, many) in pairs if few != many), None)
        shapes[name] = Shape(first.shape, grown, 1)
    return shapes, dict(zip(names, two, strict=True))


def _gradients(
    head: OnnxHead, total: torch.Tensor, context: list[torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The gradient of a random sum over the head's end, at the sum and at what else it reads."""
    given = [total, *context]
    for value in given:
        if value.is_floating_point():
            value.requires_grad_(True)
    with torch.enable_grad():
        end, _ = head(total, *context)
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(end.shape, generator=generator).to(end.dtype)
        asked = [value for value in given if value.requires_grad]
        found = iter(torch.autograd.grad(end, asked, grad_outputs=weights, allow_unused=True))
    gradients = []
    for value in given:
        gradient = next(found) if value.requires_grad else None
        gradients.append(torch.zeros_like(value) if gradient is None else gradient.float())
    return gradients[0], gradients[1:]


def _of_one_query(
    summation: Summation,
    gradient: torch.Tensor,
    beside: list[torch.Tensor],
    layouts: Mapping[str, Layout],
    context: Sequence[str],
) -> Summation:
    """The sum of the one query that the embedding reads."""
    attention = summation.attention
    assert attention is not None
    size = gradient.abs().reshape(-1, attention.heads, attention.queries, attention.head_size)
    by_query = size.amax(dim=(0, 1, 3))
    read = torch.nonzero(by_query > _NO_GRADIENT * by_query.max().clamp_min(1e-30)).flatten()
    if len(read) != 1:
        raise NoSumError(f"{len(read)} tokens of its last attention lead to the embedding")
    for name, each in zip(context, beside, strict=True):
        if name in layouts and is_spread(each, layouts[name]):
            raise NoSumError("patches lead to the embedding beside its last attention")
    return replace(summation, attention=attention.at(int(read[0])))


def _with_summands(analysed: _Analysed) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(analysed.prepared.model)
    add_summands(model, analysed.summation, analysed.kind)
    return model


def _with_ends(model: onnx.ModelProto, network: Network, summation: Summation) -> onnx.ModelProto:
    """The embedding network's file: its two outputs with their shapes, nothing of its origin."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *sizes])
        for name, sizes in (
            (FEATURE_MAP, network.feature_map_shape),
            (EMBEDDING, (network.embedding_size,)),
        )
    ]
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.extend(ends)
    strip_origin(model)
    mark_network(model, network.sha256(), summation.kind, summation.row or 0)
    onnx.checker.check_model(model, full_check=True)
    return model
