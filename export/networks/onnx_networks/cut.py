"""An ONNX file as an embedding network: its own graph, cut at its feature map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from foldcam.export.networks.cut import Activations, Network
from foldcam.export.networks.feature_map import Grid, Layout
from foldcam.export.networks.onnx_networks.cut_points import find_cut_points
from foldcam.export.networks.onnx_networks.head import OnnxHead
from foldcam.export.networks.onnx_networks.input import OutputChoiceError, image_input, offer
from foldcam.export.networks.onnx_networks.prepare import noise, prepare
from foldcam.export.networks.onnx_torch.arrangement import to_torch
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.embedding_model import BATCH, FEATURE_MAP, strip_origin
from foldcam.export.onnx_graphs.file import OnnxFile, computation_hash, ending_at
from foldcam.export.onnx_graphs.opset import in_opset
from foldcam.export.onnx_graphs.rewrites import global_pools
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.export.onnx_graphs.values import PREPARED, refill, rename
from foldcam.export.onnx_graphs.writing import NetworkNodes
from foldcam.runtime.contract.schema import EMBEDDING
from foldcam.runtime.system.errors import FoldcamError


class OnnxNetwork(Network):
    """An ONNX graph cut at its feature map; it is never written again through torch.

    The trunk runs in ONNX Runtime, the head node by node in torch.

    Args:
        image_size: `(height, width)` of the input in pixels.
        layer: name of the feature map's value or node, or None to find it.
        exact: whether the head has to be differentiable. If not, a head that is not runs
            in ONNX Runtime as well, and only directions cannot be pulled back through it.
        device: where the trunk runs, and such a head.
    """

    def __init__(
        self,
        file: OnnxFile,
        image_size: tuple[int, int],
        layer: str | None = None,
        exact: bool = True,
        device: Device = CPU,
    ) -> None:
        self._file = file
        self._prepared = prepared = prepare(file, image_size)
        points = find_cut_points(prepared, image_size, layer, exact)
        super().__init__(points)
        self.notes, self._layout, self._obstacle = prepared.notes, points.layout, points.obstacle
        self._graph_head: OnnxHead | None = None
        self._ends, self._device = [self.layer, points.head_end, prepared.embedding], device
        if self._obstacle is None:
            self._graph_head = OnnxHead(prepared, self.layer, points.head_end)
            self._ends = [self.layer, *self._graph_head.context]
        self._session: GraphSession | None = None
        wrong = self._wrong_head()
        if wrong is not None and exact:
            raise FoldcamError(f"{wrong}: use --head fitted.")
        if wrong is not None:
            # Then it runs in ONNX Runtime like one that has no gradient.
            self._graph_head, self._obstacle = None, wrong
            self._ends = [self.layer, points.head_end, prepared.embedding]
            self.release()

    def _trunk(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._session is None:
            self._session = GraphSession(self._prepared.model, self._ends, self._device)
        layer, *context = (to_torch(array) for array in self._session.run(images.numpy()))
        images_first = layer.transpose(0, 1) if self._layout.tokens_first else layer
        skipped = [images_first[:, : self._layout.skipped]] if self._layout.skipped else []
        return (_as_map(layer, self._layout), *skipped, *context)

    def _head(
        self, feature_map: torch.Tensor, *context: torch.Tensor | int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        skipped, rest = (context[:1], context[1:]) if self._layout.skipped else ((), context)
        if self._graph_head is None:
            head_end, embedding = (torch.as_tensor(value) for value in rest)
            return head_end, embedding.reshape(len(feature_map), -1)
        return self._graph_head(_from_map(feature_map, self._layout, *skipped), *rest)

    def release(self) -> None:
        """See `Network.release`."""
        self._session = None

    def embed_map(self, activations: Activations, feature_map: torch.Tensor) -> torch.Tensor:
        """See `Network.embed_map`."""
        if self._obstacle is not None:
            raise FoldcamError(
                f"The head cannot be run on a changed feature map: {self._obstacle}."
            )
        return super().embed_map(activations, feature_map)

    def pull_back_map(self, activations: Activations, directions: torch.Tensor) -> torch.Tensor:
        """See `Network.pull_back_map`."""
        if self._obstacle is not None:
            raise FoldcamError(f"The head cannot be differentiated: {self._obstacle}.")
        return super().pull_back_map(activations, directions)

    def to_onnx(self, opset: int = 18) -> onnx.ModelProto:
        """See `Network.to_onnx`. The nodes are the file's own, in its own order."""
        model = onnx.ModelProto()
        model.CopyFrom(self._prepared.model)
        shapes = {name: list(shape.sizes) for name, shape in self._prepared.shapes.items()}
        global_pools(model.graph, shapes)
        source, embedding = self.layer, self._prepared.embedding
        layer_kind, embedding_kind = self._kinds()
        shape = self._prepared.shapes[embedding].sizes
        direct_map = self._layout.kind == "nchw" and layer_kind == TensorProto.FLOAT
        direct_embedding = len(shape) == 2 and embedding_kind == TensorProto.FLOAT
        names = {
            source: FEATURE_MAP if direct_map else f"{PREPARED}layer",
            embedding: EMBEDDING if direct_embedding else f"{PREPARED}embedding",
        }
        rename(model.graph, names, [FEATURE_MAP, EMBEDDING])
        add = NetworkNodes(model.graph, f"{PREPARED}map.", (FEATURE_MAP, EMBEDDING))
        if not direct_map:
            _add_map(add, names[source], self._layout)
        if not direct_embedding:
            rows = add.integers("embedding_shape", [-1, self.embedding_size])
            flat = add.node("Reshape", [names[embedding], rows], "flat_embedding")
            add.node("Cast", [flat], EMBEDDING, to=TensorProto.FLOAT)
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *sizes])
            for name, sizes in (
                (FEATURE_MAP, self.feature_map_shape),
                (EMBEDDING, (self.embedding_size,)),
            )
        ]
        refill(model.graph.output, ends)
        strip_origin(model)
        changed = in_opset(model, opset, noise(self.image_size, 3))
        strip_origin(changed)
        # The converter writes down shapes that it worked out, or none.
        del changed.graph.output[:], changed.graph.value_info[:]
        changed.graph.output.extend(ends)
        try:
            onnx.checker.check_model(changed, full_check=True)
        except onnx.checker.ValidationError as error:
            first = str(error).splitlines()[0].rstrip(".")
            raise FoldcamError(f"The network is not valid ONNX: {first}.") from error
        return changed

    def _hashed(self) -> str:
        """Hash of the file's nodes, attributes and weights, and of the output that is used."""
        return computation_hash(self._file.model, self._prepared.embedding)

    def _kinds(self) -> tuple[int, int]:
        """Element types of the layer and of the embedding in the graph."""
        session = GraphSession(self._prepared.model, [self.layer, self._prepared.embedding])
        arrays = session.run(noise(self.image_size, 1))
        first, second = (helper.np_dtype_to_tensor_dtype(array.dtype) for array in arrays)
        return first, second

    def _wrong_head(self) -> str | None:
        """How the head in torch differs from the whole graph in ONNX Runtime, None if not."""
        images = noise(self.image_size, 2)
        (expected,) = GraphSession(self._prepared.model, [self._prepared.embedding]).run(images)
        found = self.forward(torch.from_numpy(images)).embedding
        wanted = to_torch(expected).reshape(2, -1)
        off = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
        if off < (2e-2 if expected.dtype == np.float16 else 1e-3):
            return None
        return (
            f"The head, computed in torch, gives another {self._prepared.embedding!r} than ONNX "
            f"Runtime ({off:.1%} off)"
        )


def _as_map(layer: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The layer's output as `[N, K, h, w]`."""
    if layout.kind == "nhwc":
        return layer.permute(0, 3, 1, 2).contiguous()
    if layout.kind == "tokens":
        layer = layer.transpose(0, 1) if layout.tokens_first else layer
        patches = layer[:, layout.skipped :].transpose(1, 2)
        return patches.reshape(-1, *layout.shape)
    return layer


def _from_map(
    feature_map: torch.Tensor, layout: Layout, *skipped: torch.Tensor | int
) -> torch.Tensor:
    """The layer's output put together again."""
    if layout.kind == "nhwc":
        return feature_map.permute(0, 2, 3, 1).contiguous()
    if layout.kind == "tokens":
        patches = feature_map.flatten(2).transpose(1, 2)
        first = [torch.as_tensor(each) for each in skipped]
        tokens = torch.cat([*first, patches], dim=1)
        return tokens.transpose(0, 1).contiguous() if layout.tokens_first else tokens
    return feature_map


def _add_map(add: NetworkNodes, layer: str, layout: Layout) -> None:
    """Add the feature map beside its layer, without leading the network through it."""
    channels, height, width = layout.shape
    if layout.kind == "nhwc":
        layer = add.node("Transpose", [layer], "channels_first", perm=[0, 3, 1, 2])
    elif layout.kind == "tokens":
        if layout.tokens_first:
            layer = add.node("Transpose", [layer], "images_first", perm=[1, 0, 2])
        if layout.skipped:
            last = layout.skipped + height * width
            layer = add.slice(layer, "patches", 1, layout.skipped, last)
        layer = add.node("Transpose", [layer], "columns", perm=[0, 2, 1])
        shape = add.integers("map_shape", [-1, channels, height, width])
        layer = add.node("Reshape", [layer, shape], "grid")
    # Where the layer is a float32 map it is only renamed; the cast is for halves.
    add.node("Cast", [layer], FEATURE_MAP, to=TensorProto.FLOAT)


# Values that are tried where the outputs themselves are no embedding, and that are offered.
_MOST_INNER = 8
_MOST_OFFERED = 4


def open_onnx(
    file: OnnxFile,
    image_size: Grid,
    layer: str | None = None,
    exact: bool = True,
    device: Device = CPU,
) -> OnnxNetwork:
    """As `OnnxNetwork`, but names for --output are tried before they are proposed.

    Args:
        layer: name of the feature map's value or node, or None to find it.
    """
    try:
        return OnnxNetwork(file, image_size, layer, exact, device)
    except OutputChoiceError as question:
        raise answered(question, file, image_size) from None


def answered(question: OutputChoiceError, file: OnnxFile, image_size: Grid) -> FoldcamError:
    """The question with those of its choices that can be folded, as far as they are offered.

    Args:
        question: from the file.
        file: the network.
        image_size: `(height, width)` to try an open size with.
    """
    outputs = {str(value.name) for value in file.model.graph.output}
    inner = [name for name in question.choices if name not in outputs]
    asked = [name for name in question.choices if name in outputs] + inner[:_MOST_INNER]
    works, reason = _working(file, asked, image_size)
    if works:
        shapes = {name: shape or works[name] for name, shape in question.choices.items()
                  if name in works}  # fmt: skip
        named = {name: shape for name, shape in shapes.items() if name in outputs}
        named |= dict([each for each in shapes.items() if each[0] not in outputs][:_MOST_OFFERED])
        return FoldcamError(f"{question.problem}{offer(named)}")
    tried = f" (tried: {', '.join(map(repr, asked[:_MOST_OFFERED]))}: {reason})" if asked else ""
    return FoldcamError(
        f"{question.problem}, and no value of it was found that could be folded as the embedding "
        f"of one image{tried}: export a network that returns one embedding [N, D] per image."
    )


def _working(
    file: OnnxFile, names: Iterable[str], image_size: Grid
) -> tuple[Mapping[str, str], str]:
    """The names with which the network folds, the shape of each, and why the first does not."""
    works: dict[str, str] = {}
    reason = ""
    for name in names:
        try:
            cut = ending_at(file, name)
            size = image_input(cut.model.graph).size or image_size
            network = OnnxNetwork(cut, size, exact=False)
        except FoldcamError as error:
            reason = reason or str(error).rstrip(".")
        else:
            works[name] = f"N x {network.embedding_size}"
    return works, reason
