"""Any torch module seen as image -> (feature map, embedding), cut at the feature map.

The module's flat graph is cut in two: the trunk, image -> feature map, which is never
differentiated, and the head, feature map -> embedding, through which directions are
pulled back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from export.anatomy import context_of, dissect, subgraph


@dataclass(frozen=True)
class Activations:
    """One forward pass over a batch.

    Attributes:
        feature_map: `float32 [N, K, h, w]`, detached.
        embedding: `float32 [N, D]`, the network's own output, detached.
        context: other values that the head needs and that do not depend on the
            feature map (skip connections, sizes).
    """

    feature_map: torch.Tensor
    embedding: torch.Tensor
    context: tuple[torch.Tensor | int, ...]


class Network:
    """A torch module in eval mode, exported and cut at its feature map.

    Args:
        module: image `float32 [N, 3, H, W]` -> embedding `[N, D]`.
        image_size: `(height, width)` of the input in pixels.
        layer: name of the feature map, or None to find it.

    Attributes:
        candidates: every node that could be the feature map.
        layer: name of the feature map.
        feature_map_shape: `(K, h, w)`.
        embedding_size: `D`.
        normalized: whether the network ends in an L2 normalisation.
        head_before_normalization: whether the head ends at that normalisation's
            input. False only where the output is normalised but the place was
            not found; directions are then pulled through it.
        program: the whole graph, image -> (feature map, embedding).

    Raises:
        FoldcamError: torch cannot export the module; it has no feature map; the
            named layer does not exist or does not lead to the embedding; the
            output is not one embedding per image.
    """

    def __init__(
        self, module: nn.Module, image_size: tuple[int, int], layer: str | None = None
    ) -> None:
        self.image_size = image_size
        anatomy = dissect(module, image_size, layer)
        self.candidates = anatomy.candidates
        self.layer = anatomy.feature_map.name
        self.feature_map_shape = anatomy.feature_map.shape
        self.embedding_size = int(anatomy.embedding.meta["val"].shape[1])
        self.normalized = anatomy.normalized
        self.head_before_normalization = anatomy.head_before_normalization
        feature_map = anatomy.feature_map.node
        ends = [anatomy.head_end, anatomy.embedding]
        context = context_of(anatomy.whole, feature_map, ends)
        self._trunk = subgraph(anatomy.whole, [anatomy.image], [feature_map, *context])
        self._head = subgraph(anatomy.whole, [feature_map, *context], ends)
        self.program = subgraph(anatomy.whole, [anatomy.image], [feature_map, anatomy.embedding])

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> Activations:
        """One forward pass.

        Args:
            images: `float32 [N, 3, H, W]`, preprocessed.
        """
        feature_map, *context = self._trunk(images)
        _, embedding = self._head(feature_map, *context)
        return Activations(feature_map, embedding, tuple(context))

    @torch.no_grad()
    def head_end(self, activations: Activations) -> torch.Tensor:
        """`float32 [N, D]`: the embedding before its normalisation, where the network has one."""
        head_end, _ = self._head(activations.feature_map, *activations.context)
        before: torch.Tensor = head_end.flatten(1)
        return before

    def pull_back_map(self, activations: Activations, directions: torch.Tensor) -> torch.Tensor:
        """Vector-Jacobian product of `directions` through the head.

        Args:
            activations: from `forward`, N images.
            directions: `float32 [N, D]`, one per image.

        Returns:
            `float32 [N, K, h, w]`: gradient of `sum(direction * z)` with respect to
            the feature map, where `z` is the head's end (the input of the final
            normalisation, or the embedding where there is none).
        """
        feature_map = activations.feature_map.detach().requires_grad_(True)
        with torch.enable_grad():
            head_end, _ = self._head(feature_map, *activations.context)
            if not head_end.requires_grad:
                # The head detaches or rounds: nothing flows back.
                return torch.zeros_like(feature_map)
            (gradient,) = torch.autograd.grad(
                head_end.flatten(1), feature_map, grad_outputs=directions, allow_unused=True
            )
        return torch.zeros_like(feature_map) if gradient is None else gradient

    def pull_back(self, activations: Activations, directions: torch.Tensor) -> torch.Tensor:
        """Grad-weights `float32 [N, K]`: the spatial mean of `pull_back_map`."""
        return self.pull_back_map(activations, directions).mean(dim=(2, 3))

    def head_is_linear(self, activations: Activations) -> bool:
        """Whether the head's Jacobian is the same wherever it is taken.

        Tried on random feature maps of both signs, where a ReLU, a gate or an
        attention in the head would show.
        """
        generator = torch.Generator().manual_seed(0)
        count = activations.feature_map.shape[0]
        if count < 2:
            return False
        direction = torch.randn(self.embedding_size, generator=generator).expand(count, -1)
        scale = activations.feature_map.abs().amax().clamp_min(1e-6)
        noise = torch.randn(activations.feature_map.shape, generator=generator) * scale
        elsewhere = Activations(noise, activations.embedding, activations.context)
        pulled = torch.cat(
            [self.pull_back_map(point, direction) for point in (activations, elsewhere)]
        )
        size = pulled.abs().amax().clamp_min(1e-30)
        return bool(((pulled - pulled[:1]).abs().amax() / size) < 1e-4)

    def head_depends_on_position(self, activations: Activations) -> bool:
        """Whether the head weights positions differently (flatten, global depthwise).

        For such a head the spatial mean in the grad-weights loses the position.
        """
        generator = torch.Generator().manual_seed(0)
        count = activations.feature_map.shape[0]
        direction = torch.randn(self.embedding_size, generator=generator).expand(count, -1)
        pulled = self.pull_back_map(activations, direction)
        spread = (pulled - pulled.mean(dim=(2, 3), keepdim=True)).abs().amax()
        return bool(spread > 1e-4 * pulled.abs().amax().clamp_min(1e-30))

    def sha256(self) -> str:
        """Hash of the parameters, the buffers and the operators with their arguments."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.program.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        for node in self.program.graph.nodes:
            digest.update(f"{node.op} {node.target} {node.args} {node.kwargs};".encode())
        return digest.hexdigest()
