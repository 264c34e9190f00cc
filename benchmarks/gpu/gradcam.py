"""Grad-CAM by back-propagation in torch, for the time it takes on the same device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from foldcam.export.networks.torch_cut import TorchNetwork


def gradcam_runs(
    network: TorchNetwork, images: torch.Tensor, device: str
) -> dict[str, Callable[[], None]]:
    """One forward pass and one heatmap per image, in three ways, and the pass alone.

    `torch_forward` is the network alone. `torch_gradcam_full` back-propagates through
    everything, as the libraries do; `torch_gradcam_map` to the feature map alone, the
    fastest there is for one image's own gradient.

    Args:
        network: the cut network; moved to the device.
        images: `float32 [N, 3, H, W]`.
        device: of torch, `cuda` or `cpu`.
    """
    trunk, head = network.trunk_module.to(device), network.head_module.to(device)
    given = images.to(device)
    directions = torch.randn(len(images), network.embedding_size, device=device)

    def finish(heat: torch.Tensor | None = None) -> None:
        if heat is not None:
            (heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-20)).cpu()
        if device == "cuda":
            torch.cuda.synchronize()

    def heatmap(gradient: torch.Tensor, feature_map: torch.Tensor) -> torch.Tensor:
        weights = gradient.mean((2, 3), keepdim=True)
        return torch.relu((weights * feature_map).sum(1))

    @torch.no_grad()
    def forward() -> None:
        feature_map, *context = trunk(given)
        head(feature_map, *context)
        finish()

    def full() -> None:
        _trainable(trunk, True)
        feature_map, *context = trunk(given)
        feature_map.retain_grad()
        z, _ = head(feature_map, *context)
        (z.flatten(1) * directions).sum().backward()
        heat = heatmap(feature_map.grad, feature_map.detach())
        for parameter in trunk.parameters():
            parameter.grad = None
        _trainable(trunk, False)
        finish(heat.detach())

    def to_map() -> None:
        with torch.no_grad():
            feature_map, *context = trunk(given)
        feature_map.requires_grad_(True)
        z, _ = head(feature_map, *context)
        (gradient,) = torch.autograd.grad((z.flatten(1) * directions).sum(), feature_map)
        finish(heatmap(gradient, feature_map.detach()))

    return {
        "torch_forward": forward,
        "torch_gradcam_full": full,
        "torch_gradcam_map": to_map,
    }


def _trainable(module: nn.Module, wanted: bool) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(wanted)
