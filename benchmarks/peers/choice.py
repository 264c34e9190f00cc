"""Which peers there are, by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from benchmarks.peers.peer import FOLDCAM, PLAIN, Peer
from benchmarks.peers.setting import Setting

SCORE_CAM = "score_cam"
Builder = Callable[[Setting], Peer]


def builders() -> dict[str, Builder]:
    """Name -> what builds it, of everything that runs in this environment.

    Score-CAM takes minutes for an image and is asked for by itself.
    """
    from benchmarks.peers import graphs, libraries, torch_gradcam

    found: dict[str, Builder] = {PLAIN: graphs.plain, FOLDCAM: graphs.foldcam}
    modes: tuple[torch_gradcam.Mode, ...] = ("eager", "channels_last")
    if can_compile():
        modes = (*modes, "compiled")
    found.update(torch_gradcam.builders(modes))
    found["aggregated_backprop"] = torch_gradcam.aggregated_backprop
    found["gradcam_pytorch_grad_cam"] = libraries.pytorch_grad_cam
    found["gradcam_torchcam"] = libraries.torchcam_gradcam
    found["kmeans_outside_graph"] = graphs.kmeans_outside
    found[SCORE_CAM] = libraries.score_cam
    return found


def can_compile() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs on a processor."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
