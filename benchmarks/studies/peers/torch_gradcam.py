"""Grad-CAM in torch, written out: how far the gradient goes, and how the network is run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import nn

from foldcam.benchmarks.studies.peers.peer import NO_MAP, Asked, Floats, Peer
from foldcam.benchmarks.studies.peers.setting import Setting

Reach = Literal["full", "map", "head"]
Mode = Literal["eager", "channels_last", "compiled"]
Objective = Literal["one_triplet", "similarity", "all_triplets"]

LIBRARY = f"torch {torch.__version__}"
REACHES: dict[Reach, str] = {
    "full": "back-propagation through everything, as pytorch-grad-cam does",
    "map": "gradient to the feature map only, as torch-cam does",
    "head": "backbone without a graph, gradient of the head only",
}
_MODES: dict[Mode, str] = {
    "eager": "",
    "channels_last": ", channels last",
    "compiled": ", torch.compile",
}
_OBJECTIVES: dict[Objective, str] = {
    "one_triplet": "",
    "similarity": "; asked: similarity to the nearest training image",
    "all_triplets": "; asked: all triplets",
}


class Halves:
    """Backbone and head of a network, ready to run in one mode.

    Args:
        mode: how it is run. Compiled, a backbone that needs no gradient is frozen, so that the
            compiler may fold its weights.
        trainable: whether the parameters ask for gradients, as a user's network does.
    """

    def __init__(self, setting: Setting, mode: Mode, trainable: bool) -> None:
        network = setting.users_network
        self.normalized = network.normalized
        trunk, head = copy.deepcopy(network.trunk_module), copy.deepcopy(network.head_module)
        for module in (trunk, head):
            module.requires_grad_(trainable)
        self.parameters = [*trunk.parameters(), *head.parameters()]
        self._layout = torch.contiguous_format
        if mode == "channels_last":
            self._layout = torch.channels_last
            for module in (trunk, head):
                cast(Any, module).to(memory_format=self._layout)
        self.trunk: Callable[..., Any] = trunk
        self.head: Callable[..., Any] = head
        if mode == "compiled":
            self.trunk, self.head = compiled(trunk, not trainable), compiled(head, False)

    def image(self, image: Floats) -> torch.Tensor:
        """The image in the mode's memory layout."""
        return torch.from_numpy(image).contiguous(memory_format=self._layout)

    def score(self, feature_map: torch.Tensor, context: list[Any], question: Floats) -> Any:
        """The scalar that is differentiated: the embedding of norm 1 times the question."""
        _, embedding = self.head(feature_map, *context)
        if not self.normalized:
            embedding = nn.functional.normalize(embedding, dim=1)
        return (embedding[0] * torch.from_numpy(question)).sum()


def compiled(module: nn.Module, freeze: bool) -> Callable[..., Any]:
    """`torch.compile` for fixed shapes."""
    options: dict[str, str | int | bool | Callable[..., Any]] = {"freezing": freeze}
    found: Callable[..., Any] = torch.compile(module, dynamic=False, options=options)
    return found


def heat_of(gradient: torch.Tensor, feature_map: torch.Tensor) -> Floats:
    """`relu(sum_k mean(dA_k) A_k)` over its maximum, `float32 [h, w]`."""
    weights = gradient.mean((2, 3), keepdim=True)
    heat = torch.relu((weights * feature_map).sum(1))[0]
    scaled: Floats = (heat / heat.max().clamp_min(1e-20)).numpy()
    return scaled


def gradcam(setting: Setting, reach: Reach, mode: Mode, objective: Objective) -> Peer:
    """One Grad-CAM; its name begins with `gradcam_`."""
    torch.set_num_threads(1)
    halves = Halves(setting, mode, trainable=reach != "head")

    def full(image: Floats, asked: Asked) -> Floats:
        feature_map, *context = halves.trunk(halves.image(image))
        feature_map.retain_grad()
        halves.score(feature_map, context, getattr(asked, objective)).backward()
        heat = heat_of(feature_map.grad, feature_map.detach())
        for parameter in halves.parameters:
            parameter.grad = None
        return heat

    def to_map(image: Floats, asked: Asked) -> Floats:
        feature_map, *context = halves.trunk(halves.image(image))
        score = halves.score(feature_map, context, getattr(asked, objective))
        (gradient,) = torch.autograd.grad(score, feature_map)
        return heat_of(gradient, feature_map.detach())

    def head_only(image: Floats, asked: Asked) -> Floats:
        with torch.no_grad():
            feature_map, *context = halves.trunk(halves.image(image))
        # Compiled backbones return what autograd takes for an inference result of theirs.
        feature_map = feature_map.detach().requires_grad_(True)
        score = halves.score(feature_map, context, getattr(asked, objective))
        (gradient,) = torch.autograd.grad(score, feature_map)
        return heat_of(gradient, feature_map.detach())

    runs = {"full": full, "map": to_map, "head": head_only}
    parts = ["gradcam", reach]
    parts += [] if mode == "eager" else [mode]
    parts += [] if objective == "one_triplet" else [objective]
    title = f"Grad-CAM in torch: {REACHES[reach]}{_MODES[mode]}{_OBJECTIVES[objective]}"
    return Peer("_".join(parts), title, LIBRARY, runs[reach])


def aggregated_backprop(setting: Setting) -> Peer:
    """What foldcam's transfer must equal: its own direction, pulled back for every image."""
    torch.set_num_threads(1)
    network = setting.network

    def run(image: Floats, asked: Asked) -> Floats:
        activations = network.forward(torch.from_numpy(image))
        direction = torch.from_numpy(asked.all_triplets[None])
        return heat_of(network.pull_back_map(activations, direction), activations.feature_map)

    title = "reference: foldcam's direction pulled back in torch for every image"
    return Peer("aggregated_backprop", title, LIBRARY, run)


def torch_plain(setting: Setting, mode: Mode) -> Peer:
    """The network alone in torch."""
    torch.set_num_threads(1)
    halves = Halves(setting, mode, trainable=False)

    @torch.no_grad()
    def run(image: Floats, _: Asked) -> Floats:
        feature_map, *context = halves.trunk(halves.image(image))
        halves.head(feature_map, *context)
        return NO_MAP

    name = "torch_plain" if mode == "eager" else f"torch_plain_{mode}"
    return Peer(name, f"the network alone in torch{_MODES[mode]}", LIBRARY, run)
