"""Which peers there are, by name. Nothing that one of them needs is imported for another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module

from foldcam.benchmarks.studies.peers.peer import FOLDCAM, PLAIN, Peer
from foldcam.benchmarks.studies.peers.setting import Setting

SCORE_CAM = "score_cam"
Builder = Callable[[Setting], Peer]

_MODES = ("eager", "channels_last", "compiled")
_REACHES = ("full", "map", "head")
_OTHER_OBJECTIVES = ("similarity", "all_triplets")


def builders() -> dict[str, Builder]:
    """Name -> what builds it, of everything that runs in this environment.

    Score-CAM takes minutes for an image and is asked for by itself.
    """
    torch, libraries = "torch_gradcam", "libraries"
    found = {PLAIN: _lazy("graphs", "plain"), FOLDCAM: _lazy("graphs", "foldcam")}
    for mode in _MODES if can_compile() else _MODES[:-1]:
        suffix = "" if mode == "eager" else f"_{mode}"
        found[f"torch_plain{suffix}"] = _lazy(torch, "torch_plain", mode=mode)
        for reach in _REACHES:
            found[f"gradcam_{reach}{suffix}"] = _lazy(
                torch, "gradcam", reach=reach, mode=mode, objective="one_triplet"
            )
    for objective in _OTHER_OBJECTIVES:
        found[f"gradcam_head_{objective}"] = _lazy(
            torch, "gradcam", reach="head", mode="eager", objective=objective
        )
    found["aggregated_backprop"] = _lazy(torch, "aggregated_backprop")
    found["gradcam_pytorch_grad_cam"] = _lazy(libraries, "pytorch_grad_cam")
    found["gradcam_torchcam"] = _lazy(libraries, "torchcam_gradcam")
    found["kmeans_outside_graph"] = _lazy("graphs", "kmeans_outside")
    found[SCORE_CAM] = _lazy(libraries, SCORE_CAM)
    return found


def can_compile() -> bool:
    """Whether torch.compile finds the C++ compiler that it needs on a processor."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def _lazy(module: str, name: str, **options: str) -> Builder:
    return partial(_build, module, name, options)


def _build(module: str, name: str, options: dict[str, str], setting: Setting) -> Peer:
    found: Peer = getattr(import_module(f"foldcam.benchmarks.studies.peers.{module}"), name)(
        setting, **options
    )
    return found
