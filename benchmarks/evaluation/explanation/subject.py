"""What is explained: a network, its bank, and the folded model, ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.explanation.methods import METHODS, Asked, find_class_attention
from foldcam.benchmarks.evaluation.graphs import plain_graph
from foldcam.benchmarks.evaluation.localization.evaluate import run_folded
from foldcam.benchmarks.evaluation.localization.perturbation import photograph_window
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.fitted_network import fit_head
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Dataset, Sample
from foldcam.export.datasets.reading import read_picture
from foldcam.export.exporting.exporter import HeadRule, export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.cut import Activations, Network
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.runtime.backends import open_backend
from foldcam.runtime.contract.schema import EMBEDDING, NEIGHBOR, Baseline, GradWeightsRule
from foldcam.runtime.images.preprocess import Image, Preprocessing

Floats = npt.NDArray[np.float32]

BATCH = 16


@dataclass(frozen=True, eq=False)
class View:
    """A picture as the network is shown it."""

    image: Image  # `uint8 [height, width, 3]` RGB
    window: tuple[slice, slice]  # rows and columns of it that are photograph and not padding
    sha256: str  # of the picture


class Subject:
    """A network that explains pictures, and can be asked about changed ones.

    Args:
        layer: name of its feature map, None to find it.

    Attributes:
        mean_map: `float32 [K, h, w]`, the mean feature map of training images.
        has_attention: whether a class token looks at patches.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        training: Dataset,
        folder: Path,
        *,
        preprocessing: Preprocessing,
        layer: str | None,
        head_rule: HeadRule,
        grad_weights: GradWeightsRule | None,
        baseline: Baseline | None,
        seed: int,
        progress: Progress,
    ) -> None:
        self.preprocessing = preprocessing
        self._seed = seed
        objective = parse_objective("all-triplets")
        model = folder / "model.onnx"
        report = export_model(
            loaded, training, model, objective, preprocessing=preprocessing, layer=layer,
            head_rule=head_rule, grad_weights=grad_weights,
            options=FoldOptions(baseline=baseline), progress=progress,
        )  # fmt: skip
        self.notes = tuple(report.notes)
        self.explanation = report.contract.explanation
        size = (preprocessing.height, preprocessing.width)
        network = loaded.network(layer, size, exact=head_rule == "exact", summands=False)
        graph = network.to_onnx()
        if head_rule == "fitted":
            network = fit_head(network, preprocessing, training.samples)
        self.network: Network = network
        self.bank: Bank = build_bank(
            network, preprocessing, training.samples, objective,
            progress=lambda stage, done, total: progress(f"{stage}, by mean", done, total),
        ).bank  # fmt: skip
        assert self.bank.mean_summands is not None
        self.mean_map: Floats = self.bank.mean_summands
        self._plain = GraphSession(plain_graph(graph), [EMBEDDING], loaded.device)
        grid = (network.feature_map_shape[1], network.feature_map_shape[2])
        self._attention = find_class_attention(graph, size, grid, loaded.device)
        self._backend = open_backend(model, provider=loaded.device.provider)

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with closing(self._backend):
            pass

    @property
    def has_attention(self) -> bool:
        """Whether a class token looks at patches."""
        return self._attention is not None

    def view(self, sample: Sample) -> View:
        """Read a picture."""
        picture = read_picture(sample)
        image, affine = self.preprocessing.resized(picture.image)
        height, width = picture.image.shape[:2]
        size = (self.preprocessing.width, self.preprocessing.height)
        return View(image, photograph_window(affine, (width, height), size), picture.sha256)

    def embed(self, images: Sequence[Image]) -> Floats:
        """`float32 [N, D]`, as the network returns them, of pictures at the input's size."""
        parts = [
            self._plain.run(self._input(images[start : start + BATCH]))[0]
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)

    def activations(self, images: Sequence[Image]) -> Activations:
        """One forward pass in torch, up to and from the feature map."""
        return self.network.forward(torch.from_numpy(self._input(images)))

    def maps(self, images: Sequence[Image], numbers: Sequence[int]) -> dict[str, Floats]:
        """Every method's maps of a batch; methods that the network has no map for are left out.

        Args:
            numbers: which pictures they are, see `Asked`.

        Returns:
            Method -> `float32 [N, h, w]`.
        """
        folded = run_folded(self._backend, self.preprocessing, images)
        looked = None
        if self._attention is not None:
            looked = self._attention(self._input(images))
        asked = Asked(
            network=self.network,
            bank=self.bank,
            activations=self.activations(images),
            folded=folded,
            rows=folded[NEIGHBOR][:, 0].astype(np.int64),
            numbers=np.asarray(numbers, np.int64),
            attention=looked,
            seed=self._seed,
        )
        found = {method.name: method.maps(asked) for method in METHODS}
        return {name: maps for name, maps in found.items() if maps is not None}

    def _input(self, images: Sequence[Image]) -> Floats:
        return self.preprocessing.normalized(np.stack(images))
