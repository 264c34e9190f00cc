"""An embedding network as image -> (feature map, embedding), cut at the feature map.

The trunk, image -> feature map, is never differentiated. The head, feature map ->
embedding, is a torch function through which directions are pulled back. Where the two
come from is for the subclasses: a torch module, or an ONNX file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import onnx
import torch

from foldcam.export.networks.feature_map import Layer
from foldcam.runtime.contract.schema import SummandKind


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


@dataclass(frozen=True)
class CutPoints:
    """Where a network is cut, and what its ends are.

    Attributes:
        image_size: `(height, width)` of the input in pixels.
        candidates: every layer that could be the feature map, in order.
        layer: name of the feature map.
        feature_map_shape: `(K, h, w)`.
        embedding_size: `D`.
        normalized: whether the network ends in an L2 normalisation.
        head_before_normalization: whether the head ends at that normalisation's
            input. False only where the output is normalised but the place was
            not found; directions are then pulled through it.
        pooled: layers behind the feature map that are pooled on ways of their own, where
            they are several.
        finer: a layer of more positions that everything passes, where the feature map was
            found and has few; nobody tried it yet.
    """

    image_size: tuple[int, int]
    candidates: list[Layer]
    layer: str
    feature_map_shape: tuple[int, int, int]
    embedding_size: int
    normalized: bool
    head_before_normalization: bool
    pooled: tuple[Layer, ...] = ()
    finer: str | None = None


class Network(ABC):
    """An embedding network in inference mode, cut at its feature map.

    Args:
        points: where it is cut; its attributes are the network's own as well.

    Attributes:
        notes: what the user should know about how it was cut, one sentence each.
        summands: what kind of sum over positions its feature map are the summands of; `none`
            where it is the last spatial activation.
    """

    notes: tuple[str, ...] = ()
    summands: SummandKind = "none"
    _sha256: str | None = None

    def __init__(self, points: CutPoints) -> None:
        self.image_size = points.image_size
        self.candidates = points.candidates
        self.layer = points.layer
        self.feature_map_shape = points.feature_map_shape
        self.embedding_size = points.embedding_size
        self.normalized = points.normalized
        self.head_before_normalization = points.head_before_normalization
        self.pooled = points.pooled
        self.finer = points.finer

    def points(self) -> CutPoints:
        """Where it is cut, as another network around it needs to know."""
        return CutPoints(**{each.name: getattr(self, each.name) for each in fields(CutPoints)})

    @abstractmethod
    def _trunk(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images -> feature map `[N, K, h, w]`, and what else the head needs."""

    @abstractmethod
    def _head(
        self, feature_map: torch.Tensor, *context: torch.Tensor | int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Feature map and context -> the head's end `z`, and the embedding `[N, D]`."""

    @abstractmethod
    def to_onnx(self, opset: int = 18) -> onnx.ModelProto:
        """The network as ONNX, `image` -> (`feature_map`, `embedding`), with a dynamic batch.

        Args:
            opset: ONNX operator set of the file.
        """

    def sha256(self) -> str:
        """Hash of the parameters and of what is computed with them, taken once."""
        if self._sha256 is None:
            self._sha256 = self._hashed()
        return self._sha256

    @abstractmethod
    def _hashed(self) -> str:
        """See `sha256`."""

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
    def embed_map(self, activations: Activations, feature_map: torch.Tensor) -> torch.Tensor:
        """The embeddings that a changed feature map gives, with everything else as it was.

        Args:
            activations: from `forward`, N images.
            feature_map: `float32 [N, K, h, w]`, in place of theirs.

        Returns:
            `float32 [N, D]`, as the network returns them.
        """
        _, embedding = self._head(feature_map, *activations.context)
        return embedding

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

    def release(self) -> None:  # noqa: B027  (most networks hold nothing for it)
        """Give back the memory that only a forward pass needs; the next one takes it again."""

    def for_pull_back(self, activations: Activations) -> Activations:
        """What `pull_back` needs of activations, where it is less than all of them."""
        return activations

    def head_is_linear(self, activations: Activations) -> bool:
        """Whether the head's Jacobian is the same wherever it is taken, but for a factor.

        The factor is positive and one number per image, the scale of a normalisation inside the
        head. Tried on random feature maps of both signs, where a ReLU, a gate or an attention in
        the head would show.
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
        scaled = pulled / pulled.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)
        return bool((scaled - scaled[:1]).abs().amax() < 1e-4)

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
