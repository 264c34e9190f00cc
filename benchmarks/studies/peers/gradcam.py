"""Grad-CAM in torch: written out, and as the libraries torch-cam and pytorch-grad-cam have it.

What is written out says how far the gradient goes, and how the network is run. pytorch-grad-cam
needs torchvision; where that does not import, its algorithm is written out here, step for step,
and the name says so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from foldcam.benchmarks.studies.peers.peer import NO_MAP, Asked, Floats, Peer, Setting
from foldcam.runtime.system.errors import FoldcamError

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


_SCORE_CAM_BATCH = 16


class Tapped(nn.Module):
    """image -> embedding of norm 1, with the feature map as the output of a module of its own.

    The libraries hook modules; many networks make their feature map in a function.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        network = setting.users_network
        self.trunk = copy.deepcopy(network.trunk_module)
        self.tap = nn.Identity()
        self.head = copy.deepcopy(network.head_module)
        self.requires_grad_(True)
        self._normalized = network.normalized

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`float32 [N, 3, H, W]` -> `[N, D]`."""
        feature_map, *context = self.trunk(image)
        _, embedding = self.head(self.tap(feature_map), *context)
        if not self._normalized:
            embedding = nn.functional.normalize(embedding, dim=1)
        found: torch.Tensor = embedding
        return found


def torchcam_gradcam(setting: Setting) -> Peer:
    """torch-cam's GradCAM."""
    torch.set_num_threads(1)
    try:
        from torchcam.methods import GradCAM
    except ImportError as error:
        raise FoldcamError(
            f"torch-cam does not import ({error}): pip install 'foldcam[peers]'."
        ) from error
    network = Tapped(setting)
    extractor = GradCAM(network, "tap")

    def run(image: Floats, asked: Asked) -> Floats:
        scores = network(torch.from_numpy(image))
        target = _target(asked.similarity)
        (heat,) = extractor(scores=scores, targets=target)
        found: Floats = heat[0].numpy()
        return found

    title = "torch-cam's GradCAM; asked: similarity to the nearest training image"
    return Peer("gradcam_torchcam", title, f"torchcam {_version('torchcam')}", run)


def pytorch_grad_cam(setting: Setting) -> Peer:
    """pytorch-grad-cam's GradCAM, or its algorithm written out where it does not import."""
    torch.set_num_threads(1)
    network = Tapped(setting)
    title = "pytorch-grad-cam's GradCAM; asked: similarity to the nearest training image"
    try:
        from pytorch_grad_cam import GradCAM
    except (ImportError, RuntimeError) as error:
        # torchvision beside a torch that it was not built for raises a RuntimeError.
        run = _written_out(network)
        name = "gradcam_pytorch_grad_cam_written_out"
        title = f"{title} (its algorithm written out: the package does not import, {_first(error)})"
        return Peer(name, title, LIBRARY, run)
    cam = GradCAM(model=network, target_layers=[network.tap])

    def run_library(image: Floats, asked: Asked) -> Floats:
        found: Floats = cam(torch.from_numpy(image), [_target(asked.similarity)])[0]
        return found

    library = f"grad-cam {_version('grad-cam')}"
    return Peer("gradcam_pytorch_grad_cam", title, library, run_library)


def _written_out(network: Tapped) -> Callable[[Floats, Asked], Floats]:
    """What `BaseCAM.forward` of pytorch-grad-cam 1.5.7 does for one layer and one target."""
    import cv2  # which the Grad-CAM that is written out does not need

    kept: dict[str, Any] = {}

    def hook(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        kept["map"] = output.detach()
        cast(Any, output).register_hook(lambda gradient: kept.update(gradient=gradient.detach()))

    network.tap.register_forward_hook(hook)

    def run(image: Floats, asked: Asked) -> Floats:
        outputs = network(torch.from_numpy(image))
        network.zero_grad()
        target = _target(asked.similarity)
        loss: Any = sum(target(output) for output in outputs)
        torch.autograd.backward(loss, retain_graph=True)
        feature_map, gradient = kept["map"].numpy(), kept["gradient"].numpy()
        weights = np.mean(gradient, axis=(2, 3))
        heat = np.maximum((weights[:, :, None, None] * feature_map).sum(axis=1), 0)[0]
        size = image.shape[3], image.shape[2]
        return _scaled(np.asarray(cv2.resize(_scaled(heat), size), np.float32))

    return run


def _scaled(heat: Floats) -> Floats:
    """From its least to its greatest value, as `scale_cam_image` does."""
    shifted = heat - heat.min()
    found: Floats = np.float32(shifted / (1e-7 + shifted.max()))
    return found


def score_cam(setting: Setting) -> Peer:
    """Score-CAM (Wang et al. 2020): one forward pass per channel of the feature map."""
    torch.set_num_threads(1)
    network = Tapped(setting).requires_grad_(False)
    forward = torch.no_grad()(network.forward)

    def run(image: Floats, asked: Asked) -> Floats:
        with torch.no_grad():
            feature_map = network.trunk(torch.from_numpy(image))[0].numpy()
        return score_cam_heat(
            image, feature_map, lambda batch: forward(torch.from_numpy(batch)).numpy(), asked
        )

    title = f"Score-CAM: {setting.contract.feature_map[0]} forward passes per image"
    return Peer("score_cam", title, LIBRARY, run)


def score_cam_heat(
    image: Floats, feature_map: Floats, embed: Callable[[Floats], Floats], asked: Asked
) -> Floats:
    """Score-CAM's heatmap, by whatever runs the network.

    Args:
        image: `float32 [1, 3, H, W]`.
        feature_map: `float32 [1, K, h, w]` of the image.
        embed: `float32 [N, 3, H, W]` -> embeddings `[N, D]` of norm 1.

    Returns:
        `float32 [h, w]`.
    """
    import cv2

    size = image.shape[3], image.shape[2]
    scores = []
    for start in range(0, feature_map.shape[1], _SCORE_CAM_BATCH):
        channels = feature_map[0, start : start + _SCORE_CAM_BATCH]
        masks = np.stack([cv2.resize(channel, size) for channel in channels])
        low, high = masks.min(axis=(1, 2), keepdims=True), masks.max(axis=(1, 2), keepdims=True)
        masks = (masks - low) / (high - low + 1e-8)
        scores.append(embed((image * masks[:, None]).astype(np.float32)) @ asked.similarity)
    values = np.concatenate(scores)
    weights = np.exp(values - values.max())
    weights /= weights.sum()
    heat: Floats = np.maximum(np.tensordot(weights, feature_map[0], 1), 0).astype(np.float32)
    return heat


def _target(direction: Floats) -> Callable[[torch.Tensor], torch.Tensor]:
    question = torch.from_numpy(direction)
    return lambda output: (output * question).sum()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:80]
