"""The files that every peer is built from, so that a fresh process can build one alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.studies.peers.peer import Asked, Floats
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract

if TYPE_CHECKING:
    from foldcam.export.banks.bank import Bank
    from foldcam.export.networks.torch_cut import TorchNetwork

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

        foldcam holds their scale constant (`export.networks.torch_cut`), which is half of
        its method and nothing that a Grad-CAM does.
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
