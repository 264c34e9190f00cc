"""The graphs that are timed against each other, and the network that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.export.datasets import Sample
from foldcam.export.models.spec import LoadedModel, load_model
from foldcam.export.models.training.trainer import TrainingOptions, train
from foldcam.runtime.contract.schema import EMBEDDING
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.files import atomic_path

BASE = "efficientnet-lite0"


@dataclass(frozen=True)
class NetworkChoice:
    """Which network is measured."""

    model: str | None = None  # MODEL, or None to train one with D = 128 first
    weights: Path | None = None  # its weights
    preprocessing: Preprocessing | None = None  # overrides the network's own
    training: TrainingOptions = field(default_factory=TrainingOptions)  # how one is trained

    @property
    def title(self) -> str:
        """What the network is, for the reports."""
        return self.model or f"{BASE}, fine-tuned"


def chosen_network(
    choice: NetworkChoice, samples: Sequence[Sample], path: Path, progress: Progress
) -> LoadedModel:
    """The network that is named, or one that is trained and kept.

    Args:
        path: where a trained network is kept; one that is there is taken.
    """
    if choice.model is not None:
        return load_model(choice.model, choice.weights)
    if not path.is_file():
        train(
            load_model(BASE),
            samples,
            path,
            choice.training,
            preprocessing=choice.preprocessing,
            progress=progress,
        )
    return load_model(str(path))


def plain_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that would run without foldcam: the embedding is its only output."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    kept = [value for value in plain.graph.output if value.name == EMBEDDING]
    del plain.graph.output[:]
    plain.graph.output.extend(kept)
    return plain


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph, whole or not at all."""
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
