"""What every peer is, which there are, and the files that a fresh process builds one from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract

if TYPE_CHECKING:
    from foldcam.export.banks.bank import Bank
    from foldcam.export.networks.torch_cut import TorchNetwork

Floats = npt.NDArray[np.float32]

PLAIN = "plain"
FOLDCAM = "foldcam"


@dataclass(frozen=True)
class Asked:
    """What is asked about one image, in the terms of every peer."""

    row: int  # the bank row that the folded graph returned for the single image
    embedding: Floats  # `float32 [D]` of norm 1, of the single image
    one_triplet: Floats  # `float32 [D]`, ascent of one random triplet's loss
    similarity: Floats  # `float32 [D]`, the embedding of that bank row
    all_triplets: Floats  # `float32 [D]`, ascent of all triplets of the row's class


Explain = Callable[[Floats, Asked], Floats]


@dataclass(frozen=True)
class Peer:
    """One way to a heatmap, on one thread."""

    name: str  # key of the results
    title: str  # what it is, in words
    library: str  # that does the work, with its version
    # `float32 [1, 3, H, W]` and a question -> `float32 [h, w]`, not negative. What is timed. The
    # plain networks return a map of no size
    run: Explain
    # the same for a picture of several images, of which one is asked for. None where `run` itself
    # answers that
    explain_grid: Explain | None = None
    # seconds `(wall, processor)` of the last run where another process did the work; None where
    # this one does
    remote_times: Callable[[], tuple[float, float]] | None = None
    close: Callable[[], None] = lambda: None  # gives back what it holds

    def explain(self, image: Floats, asked: Asked, grid: bool) -> Floats:
        """The heatmap of a single image, or of a grid."""
        if grid and self.explain_grid is not None:
            return self.explain_grid(image, asked)
        return self.run(image, asked)


NO_MAP: Floats = np.zeros((0, 0), np.float32)
"""What a network without a heatmap returns."""


_SAMPLE = "sample.npz"


@dataclass(frozen=True)
class Setting:
    """A folder with one network in every form."""

    # holds `plain.onnx`, `embedding.onnx` (with the feature map), `model.onnx` (folded), and one
    # image with its question
    folder: Path
    model: str  # MODEL, for torch
    weights: Path | None = None  # its weights

    @property
    def plain(self) -> Path:
        """image -> embedding."""
        return self.folder / "plain.onnx"

    @property
    def embedder(self) -> Path:
        """image -> feature map and embedding."""
        return self.folder / "embedding.onnx"

    @property
    def folded(self) -> Path:
        """The folded model."""
        return self.folder / "model.onnx"

    @cached_property
    def contract(self) -> Contract:
        """Of the folded model."""
        return read_contract(self.folded)

    @cached_property
    def network(self) -> TorchNetwork:
        """The network in torch, cut at its feature map, as foldcam differentiates it."""
        return self._network(hold=True)

    @cached_property
    def users_network(self) -> TorchNetwork:
        """The same as torch differentiates it: through its normalisations.

        foldcam holds their scale constant (`export.networks.torch_cut.hold_scales`), which is half
        of its method and nothing that a Grad-CAM does.
        """
        return self._network(hold=False)

    def _network(self, hold: bool) -> TorchNetwork:
        from torch import nn

        from foldcam.export.models.spec import load_model
        from foldcam.export.networks.torch_cut import TorchNetwork
        from foldcam.runtime.system.errors import FoldcamError

        recipe = self.contract.preprocessing
        loaded = load_model(self.model, self.weights)
        if not isinstance(loaded.source, nn.Module):
            raise FoldcamError(
                f"{self.model} is no torch network, and Grad-CAM in torch needs one: name a "
                "module:function, a .pt2 or the file of foldcam train."
            )
        size = (recipe.height, recipe.width)
        return TorchNetwork(loaded.source, size, self.contract.layer, loaded.output, hold=hold)

    @cached_property
    def bank(self) -> Bank:
        """The folded model's rows."""
        from foldcam.export.grafting.in_graph import bank_of
        from foldcam.export.onnx_graphs.message import load_message

        return bank_of(load_message(self.folded), self.contract)

    def keep_sample(self, images: Sequence[Floats], asked: Asked) -> None:
        """Store images and a question for `sample`."""
        from foldcam.runtime.system.files import atomic_path

        arrays: dict[str, npt.NDArray[np.generic]] = {
            name: np.asarray(value) for name, value in vars(asked).items()
        }
        with atomic_path(self.folder / _SAMPLE) as temporary, temporary.open("wb") as file:
            np.savez(file, images=np.stack(images), **arrays)  # type: ignore[arg-type]

    def sample(self) -> tuple[Floats, Asked]:
        """Images `float32 [N, 1, 3, H, W]` and a question."""
        with np.load(self.folder / _SAMPLE) as stored:
            asked = Asked(
                row=int(stored["row"]),
                embedding=stored["embedding"],
                one_triplet=stored["one_triplet"],
                similarity=stored["similarity"],
                all_triplets=stored["all_triplets"],
            )
            images: Floats = stored["images"]
        return images, asked


SCORE_CAM = "score_cam"
Builder = Callable[[Setting], Peer]

_MODES = ("eager", "channels_last", "compiled")
_REACHES = ("full", "map", "head")
_OTHER_OBJECTIVES = ("similarity", "all_triplets")


def builders() -> dict[str, Builder]:
    """Name -> what builds it, of everything that runs in this environment.

    Score-CAM takes minutes for an image and is asked for by itself.
    """
    found = {PLAIN: _lazy("graphs", "plain"), FOLDCAM: _lazy("graphs", "foldcam")}
    for mode in _MODES if can_compile() else _MODES[:-1]:
        suffix = "" if mode == "eager" else f"_{mode}"
        found[f"torch_plain{suffix}"] = _lazy("gradcam", "torch_plain", mode=mode)
        for reach in _REACHES:
            found[f"gradcam_{reach}{suffix}"] = _lazy(
                "gradcam", "gradcam", reach=reach, mode=mode, objective="one_triplet"
            )
    for objective in _OTHER_OBJECTIVES:
        found[f"gradcam_head_{objective}"] = _lazy(
            "gradcam", "gradcam", reach="head", mode="eager", objective=objective
        )
    found["aggregated_backprop"] = _lazy("gradcam", "aggregated_backprop")
    found["gradcam_pytorch_grad_cam"] = _lazy("gradcam", "pytorch_grad_cam")
    found["gradcam_torchcam"] = _lazy("gradcam", "torchcam_gradcam")
    found["kmeans_outside_graph"] = _lazy("graphs", "kmeans_outside")
    found[SCORE_CAM] = _lazy("gradcam", SCORE_CAM)
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
