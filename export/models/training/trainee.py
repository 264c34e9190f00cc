"""The network under training: a frozen front, and the rest, which learns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from foldcam.export.networks.feature_map import describe
from foldcam.export.networks.feature_map_search import Candidate, named_feature_map
from foldcam.export.networks.traced_graph import TracedGraph, context_of, subgraph, trace_module
from foldcam.runtime.system.errors import FoldcamError

# Of all parameters, the share that learns by default: the last stage and the head.
_TRAINED_SHARE = 0.4


class Trainee(nn.Module):
    """A module cut where its training begins.

    Batch normalisation keeps the statistics of the pretraining (its scales and
    shifts learn): batches are small, and training then runs what the device runs.

    Args:
        train_from: name of the layer after which the network learns, or None for
            the last one after which at least 40 % of the parameters lie.

    Attributes:
        train_from: that layer.
        feature_map_shape: `(K, h, w)`.
    """

    def __init__(
        self, module: nn.Module, image_size: tuple[int, int], train_from: str | None = None
    ) -> None:
        super().__init__()
        traced = trace_module(module, image_size)
        start = _start(traced, train_from)
        self.train_from = start.layer.name
        self.feature_map_shape = traced.layer.shape
        self._tokens = traced.layer.layout.kind == "tokens"
        feature_map, end = traced.feature_map, traced.head_end
        context = context_of(traced.whole, start.node, [feature_map, end])
        head_context = context_of(traced.whole, feature_map, [end])
        self.whole = traced.whole
        self.front = subgraph(traced.whole, [traced.image], [start.node, *context])
        self.middle = subgraph(traced.whole, [start.node, *context], [feature_map, *head_context])
        self.head = subgraph(traced.whole, [feature_map, *head_context], [end])
        frozen = {id(parameter) for parameter in self.front.parameters()}
        self.learning = _unique([*self.middle.named_parameters(), *self.head.named_parameters()])
        if not self.learning:
            raise FoldcamError(
                f"No parameters lie after layer {self.train_from!r}: nothing to learn."
            )
        shared = [name for name, parameter in self.learning if id(parameter) in frozen]
        if shared:
            raise FoldcamError(
                f"{shared[0]} is used before and after layer {self.train_from!r}: choose another "
                "--train-from."
            )
        for _, parameter in self.learning:
            parameter.requires_grad_(True)

    @torch.no_grad()
    def run_front(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What the learning part starts from, for `float32 [N, 3, H, W]`: one row per image."""
        values = list(self.front(images))
        if not all(isinstance(value, torch.Tensor) and value.ndim for value in values):
            raise FoldcamError(
                f"The network cannot be cut at {self.train_from!r}: choose another --train-from."
            )
        return values

    def feature_maps(
        self, front: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Feature map `[N, K, h, w]` and what else the head needs, from the front's values."""
        feature_map, *context = self.middle(*front)
        return feature_map, context

    def embed(self, feature_map: torch.Tensor, context: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embedding `[N, D]` of norm 1."""
        (end,) = self.head(feature_map, *context)
        return nn.functional.normalize(end.flatten(1), dim=1)

    def embed_regions(
        self, feature_map: torch.Tensor, context: Sequence[torch.Tensor], masks: torch.Tensor
    ) -> torch.Tensor:
        """Embedding of parts of each image: the head sees the feature map of the part alone.

        Masked and scaled by one over the part's share, so that an average over the
        map becomes the average over the part (exactly, for an average-pool head).
        Tokens are attended to, and a token of zeros would be too; so a map of tokens is
        filled with the part's own, repeated: then attention behind it weighs the part's
        tokens among themselves, and their average is still the part's.

        Args:
            feature_map: `[N, K, h, w]`.
            masks: `float32 [N, R, h, w]` in [0, 1]; regions of zeros are left out.

        Returns:
            `[M, D]`, in the order of images, then regions.
        """
        shares = masks.mean(dim=(2, 3))
        image, region = torch.nonzero(shares > 0, as_tuple=True)
        # Not by `[image]`: its gradient is added up by several threads in the order in which they
        # come, which on a busy machine is another one each time.
        parts = feature_map.index_select(0, image)
        if self._tokens:
            parts = _repeated(parts, masks[image, region])
        else:
            parts = parts * (masks[image, region] / shares[image, region][:, None, None])[:, None]
        return self.embed(parts, [value.index_select(0, image) for value in context])


def _repeated(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Maps `[M, K, h, w]`, each filled with the cells of its mask `[M, h, w]`, repeated in order.

    The cells are those that lie in the part by half or more; the fullest where none does.
    """
    positions = maps.shape[2] * maps.shape[3]
    flat = masks.flatten(1)
    inside = flat >= flat.amax(1, keepdim=True).clamp(max=0.5)
    # The cells of the part first, in their order.
    order = torch.argsort(~inside, dim=1, stable=True)
    turn = torch.arange(positions, device=maps.device) % inside.sum(1, keepdim=True)
    chosen = order.gather(1, turn)
    # A product, and not `gather`: the gradient of that is added up in another order each time.
    picked = nn.functional.one_hot(chosen, positions).to(maps.dtype)
    return (maps.flatten(2) @ picked.transpose(1, 2)).reshape(maps.shape)


def _start(traced: TracedGraph, name: str | None) -> Candidate:
    before = traced.candidates
    limit = before.index(next(c for c in before if c.layer.name == traced.layer.name))
    before = before[:limit]
    if not before:
        raise FoldcamError("The network has no layer before its feature map to train from.")
    if name is not None:
        found = named_feature_map(traced.whole.graph, traced.candidates, name, traced.head_end)
        if all(found.node is not candidate.node for candidate in before):
            raise FoldcamError(
                f"--train-from {name!r} does not lie before the feature map; choose one of: "
                f"{describe([candidate.layer for candidate in before])}."
            )
        return found
    total = sum(parameter.numel() for parameter in traced.whole.parameters())
    for candidate in reversed(before):
        ends = [traced.head_end]
        context = context_of(traced.whole, candidate.node, ends)
        # A cut that needs more than the layer itself lies inside of a block.
        if context:
            continue
        rest = subgraph(traced.whole, [candidate.node], ends)
        if sum(p.numel() for _, p in _unique(rest.named_parameters())) >= _TRAINED_SHARE * total:
            return candidate
    return before[0]


def _unique(named: Iterable[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    result: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in named:
        result.setdefault(id(parameter), (name, parameter))
    return list(result.values())
