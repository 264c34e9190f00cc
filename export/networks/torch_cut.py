"""A torch module as an embedding network: exported to a flat graph and cut in two."""

from __future__ import annotations

import hashlib
from functools import cached_property

import onnx
import torch
from torch import fx, nn

from foldcam.export.networks.conversion import to_onnx
from foldcam.export.networks.cut import CutPoints, Network
from foldcam.export.networks.held_scales import hold_scales
from foldcam.export.networks.traced_graph import context_of, moved, subgraph, trace_module
from foldcam.export.onnx_graphs.device import CPU, Device, full_float32
from foldcam.export.onnx_graphs.embedding_model import mark_network


class TorchNetwork(Network):
    """A torch module in eval mode, exported and cut at its feature map.

    The module is left in eval mode, in float32, on the CPU, with frozen parameters. Its trunk
    may run on a GPU, in a copy that is made when the first image comes; activations are always
    tensors of the processor, where the head runs.

    Args:
        module: image `float32 [N, 3, H, W]` -> embedding `[N, D]`, or a structure (dictionary,
            tuple, dataclass) that holds it.
        image_size: `(height, width)` of the input in pixels.
        layer: name of the feature map, or None to find it.
        output: which of the module's outputs is the embedding, where several could be.
        hold: whether normalisations inside the head are differentiated with their scale
            held constant, see `export.networks.held_scales`. Without it for comparison.
        device: where the trunk runs.

    Attributes:
        program: the whole graph, image -> (feature map, embedding).
        trunk_module: image -> feature map, and what else the head needs.
        head_module: those -> the head's end, and the embedding.
    """

    def __init__(
        self,
        module: nn.Module,
        image_size: tuple[int, int],
        layer: str | None = None,
        output: str | None = None,
        *,
        hold: bool = True,
        device: Device = CPU,
    ) -> None:
        self._device = device
        traced = trace_module(module, image_size, layer, output)
        super().__init__(
            CutPoints(
                image_size=image_size,
                candidates=[candidate.layer for candidate in traced.candidates],
                layer=traced.layer.name,
                feature_map_shape=traced.layer.shape,
                embedding_size=int(traced.embedding.meta["val"].shape[1]),
                normalized=traced.normalized,
                head_before_normalization=traced.head_before_normalization,
                pooled=traced.pooled,
                finer=traced.finer,
            )
        )
        feature_map = traced.feature_map
        ends = [traced.head_end, traced.embedding]
        context = context_of(traced.whole, feature_map, ends)
        self.trunk_module = subgraph(traced.whole, [traced.image], [feature_map, *context])
        self.head_module = subgraph(traced.whole, [feature_map, *context], ends)
        if hold:
            hold_scales(self.head_module)
        self.program = traced.program

    def _trunk(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        place, trunk = self._placed
        if place.type == "cpu":
            outputs: tuple[torch.Tensor, ...] = trunk(images)
            return outputs
        with full_float32():
            return tuple(
                each.cpu() if isinstance(each, torch.Tensor) else each
                for each in trunk(images.to(place))
            )

    def release(self) -> None:
        """See `Network.release`: the copy on a GPU."""
        self.__dict__.pop("_placed", None)

    @cached_property
    def _placed(self) -> tuple[torch.device, fx.GraphModule]:
        """Where the trunk runs, and the trunk there."""
        place = self._device.for_torch()
        return place, self.trunk_module if place.type == "cpu" else moved(self.trunk_module, place)

    def _head(
        self, feature_map: torch.Tensor, *context: torch.Tensor | int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ends: tuple[torch.Tensor, torch.Tensor] = self.head_module(feature_map, *context)
        return ends

    def to_onnx(self, opset: int = 18) -> onnx.ModelProto:
        """See `Network.to_onnx`."""
        model = to_onnx(
            self.program, self.image_size, self.feature_map_shape, self.embedding_size, opset
        )
        # So that a bank can be folded into the file later, without torch.
        mark_network(model, self.sha256())
        return model

    def _hashed(self) -> str:
        """Hash of the parameters, the buffers and the operators with their arguments."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.program.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        for node in self.program.graph.nodes:
            digest.update(f"{node.op} {node.target} {node.args} {node.kwargs};".encode())
        return digest.hexdigest()
