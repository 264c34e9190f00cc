"""A warning about feature maps of few cells, and a finer layer where one was tried."""

from __future__ import annotations

import torch

from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.cut import Network
from foldcam.runtime.contract.explanation import FEW_CELLS
from foldcam.runtime.system.errors import FoldcamError


def coarse_notes(loaded: LoadedModel, network: Network, *, exact: bool = True) -> list[str]:
    """One sentence where the feature map has fewer than 5 x 5 cells, else none.

    Args:
        loaded: the network, to open it at another layer.
        network: as it is cut.
        exact: whether its head has to be differentiable.
    """
    _, height, width = network.feature_map_shape
    if height * width >= FEW_CELLS:
        return []
    note = (
        f"The feature map {network.layer} has {height} x {width} cells only, so that heatmaps are "
        "coarse"
    )
    finer = _finer(loaded, network, exact)
    if finer is None:
        return [f"{note}."]
    _, height, width = finer.feature_map_shape
    return [
        f"{note}: --layer {finer.layer} has {height} x {width} (an earlier layer: its "
        "heatmaps are finer, and its features less specific)."
    ]


def _finer(loaded: LoadedModel, network: Network, exact: bool) -> Network | None:
    """The network cut at its finer layer, where directions can be pulled back to that."""
    if network.finer is None:
        return None
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *network.image_size, generator=generator)
    try:
        finer = loaded.cut(network.finer, network.image_size, exact)
        activations = finer.forward(images)
        if exact:
            pulled = finer.pull_back(activations, torch.ones(2, finer.embedding_size))
            if not pulled.any() or not pulled.isfinite().all():
                return None
    except FoldcamError:
        return None
    return finer
