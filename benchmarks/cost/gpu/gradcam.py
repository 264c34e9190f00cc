"""Grad-CAM by back-propagation in torch, for the time it takes on the same device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import nn

from foldcam.export.networks.torch_cut import TorchNetwork

Mode = Literal["eager", "channels_last", "compiled"]
MODES: tuple[Mode, ...] = ("eager", "channels_last", "compiled")
Runs = dict[str, Callable[[], None]]


def gradcam_runs(
    network: TorchNetwork, images: torch.Tensor, device: str, peers: bool = False
) -> tuple[Runs, list[str]]:
    """One forward pass and one heatmap per image, in several ways, and the pass alone.

    `torch_forward` is the network alone. `torch_gradcam_full` back-propagates through
    everything, as the libraries do; `torch_gradcam_map` to the feature map alone, with the
    backbone outside of autograd.

    Args:
        images: `float32 [N, 3, H, W]`.
        device: of torch, `cuda` or `cpu`.
        peers: whether each is also run channels last and compiled, as `foldcam bench peers` does on
            a processor.
    """
    given = images.to(device)
    found: Runs = {}
    notes: list[str] = []
    for mode in MODES if peers else MODES[:1]:
        try:
            runs = _runs(network, given, device, mode)
            for run in runs.values():
                run()
        except Exception as error:  # a compiler that is missing fails in ways of its own
            if mode == "eager":
                raise
            reason = (str(error) or type(error).__name__).strip().splitlines()[0][:200]
            notes.append(f"torch, {mode}: not measured, it failed: {reason}")
            continue
        suffix = "" if mode == "eager" else f"_{mode}"
        found |= {f"{name}{suffix}": run for name, run in runs.items()}
    return found, notes


def _runs(network: TorchNetwork, given: torch.Tensor, device: str, mode: Mode) -> Runs:
    halves = network.trunk_module.to(device), network.head_module.to(device)
    if mode != "eager":
        halves = copy.deepcopy(halves)
    if mode == "channels_last":
        for module in halves:
            cast(Any, module).to(memory_format=torch.channels_last)
        given = given.contiguous(memory_format=torch.channels_last)
    trunk = halves[0]
    run_trunk, run_head = cast("list[Callable[..., Any]]", list(halves))
    if mode == "compiled":
        run_trunk, run_head = (torch.compile(each, dynamic=False) for each in halves)
    directions = torch.randn(len(given), network.embedding_size, device=device)

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
        feature_map, *context = run_trunk(given)
        run_head(feature_map, *context)
        finish()

    def full() -> None:
        _trainable(trunk, True)
        feature_map, *context = run_trunk(given)
        feature_map.retain_grad()
        z, _ = run_head(feature_map, *context)
        (z.flatten(1) * directions).sum().backward()
        heat = heatmap(feature_map.grad, feature_map.detach())
        for parameter in trunk.parameters():
            parameter.grad = None
        _trainable(trunk, False)
        finish(heat.detach())

    def to_map() -> None:
        with torch.no_grad():
            feature_map, *context = run_trunk(given)
        # Compiled backbones return what autograd takes for an inference result of theirs.
        feature_map = feature_map.detach().requires_grad_(True)
        z, _ = run_head(feature_map, *context)
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
