"""The folded models that are compared, and the network that is their reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.bank_input import to_constants
from foldcam.export.grafting.checks import takes_uint8
from foldcam.export.grafting.in_graph import bank_of, is_intact, stored_bank_of
from foldcam.export.grafting.unfold import network_of
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.export.onnx_graphs.message import load_message
from foldcam.export.onnx_graphs.normalization import find_logits, find_normalization, scores_of
from foldcam.export.onnx_graphs.session import cpu_session
from foldcam.export.verification.formulas import NetworkValues, scaled_estimate
from foldcam.export.verification.pair_report import Precision, precision_of
from foldcam.runtime.backends import Backend, open_backend
from foldcam.runtime.contract.bank.live_bank import bank_path
from foldcam.runtime.contract.schema import (
    CONTRAST,
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    IMAGE,
    NEIGHBOR,
    RUNNER_UP,
    SIMILARITY,
    Contract,
)
from foldcam.runtime.model.model_input import ModelInput
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.export.networks.cut import Network


from foldcam.export.grafting.frame import frame_graph
from foldcam.export.grafting.input import PLANES

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """What a folded model returned for a batch of n images.

    Attributes:
        embedding: `[n, D]`.
        heatmap: `[n, 1, h', w']`, or `[n, 2, h', w']` for a continuous outcome.
        rows: `int32 [n, neighbors]`.
        similarity: `[n, neighbors]`.
        estimate: `float64 [n]`, as `formulas.scaled_estimate`; None for a model of labels.
        contribution, contrast: `[n, 1, h', w']`, None where the model does not return them.
        runner_up: `int32 [n]`, None where the model does not return it.
    """

    embedding: Floats
    heatmap: Floats
    rows: npt.NDArray[np.int32]
    similarity: Floats
    estimate: npt.NDArray[np.float64] | None
    contribution: Floats | None = None
    contrast: Floats | None = None
    runner_up: npt.NDArray[np.int32] | None = None


class ComparedModel:
    """A folded model in the library that fits its file.

    Attributes:
        name: the file's name.
        contract: what it promises.
        bank: what its graph holds; None for an engine, whose graph cannot be read.
        stored: how its graph holds and searches it; None for an engine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        onnx_file = path.suffix.lower() == ".onnx"
        # What is wrong is said here by every output, not by the probe pictures alone.
        self._backend: Backend = open_backend(
            path, provider="cpu" if onnx_file else "auto", accept_wrong=True
        )
        self.contract: Contract = self._backend.contract
        self.model = load_message(path) if onnx_file else None
        if self.model is not None and self.contract.bank_input is not None:
            bank = Bank.load(bank_path(path))
            self.model = to_constants(self.model, self.contract, bank)
        self.bank = None if self.model is None else bank_of(self.model, self.contract)
        self.stored = None if self.model is None else stored_bank_of(self.model, self.contract)

    @property
    def library(self) -> str:
        """What runs it, such as `onnxruntime 1.22 on cpu`."""
        return f"{self._backend.name} on {self._backend.device}"

    def bank_intact(self) -> bool | None:
        """Whether the bank in the graph is the one that the metadata describe."""
        return None if self.model is None else is_intact(self.model, self.contract)

    def precision(self, *, with_bank: bool) -> Precision:
        """See `verify_limits.precision_of`; an engine counts as rounded to half precision."""
        return "fp16" if self.model is None else precision_of(self.model, with_bank=with_bank)

    def run(self, pictures: npt.NDArray[np.uint8], bank: Bank) -> Answers:
        """One forward pass.

        Args:
            pictures: `uint8 [n, height, width, 3]` RGB, as `ModelInput.picture` makes them.
            bank: whose values' range is the unit of the estimates.
        """
        outputs = self._backend.run(ModelInput(self.contract).ready(pictures))
        heatmap, estimate = outputs[HEATMAP], None
        if bank.outcome is not None:
            heatmap = np.concatenate([heatmap, outputs[HEATMAP_LOWER]], axis=1)
            estimate = scaled_estimate(outputs[ESTIMATE], bank.outcome)
        return Answers(
            outputs[EMBEDDING],
            heatmap,
            outputs[NEIGHBOR],
            outputs[SIMILARITY],
            estimate,
            outputs.get(CONTRIBUTION),
            outputs.get(CONTRAST),
            outputs.get(RUNNER_UP),
        )

    def close(self) -> None:
        """Give memory and device back."""
        self._backend.close()


class NetworkSource:
    """The network that the folded model came from; `name` is for the report."""

    name = "the network it came from"

    def __init__(self, network: Network, contract: Contract, path: Path) -> None:
        origin, sha256 = contract.origin, network.sha256()
        if sha256 != origin.network_sha256:
            raise FoldcamError(
                f"{path} was made from another network: its metadata names "
                f"{origin.network_sha256[:12]}... and this one is {sha256[:12]}... "
                f"(MODEL {origin.network}, weights {origin.weights or 'none'})."
            )
        self._network = network
        self._preprocessing = contract.preprocessing
        self._scores = contract.scores

    def run(self, resized: npt.NDArray[np.uint8]) -> NetworkValues:
        """What the network says of images `uint8 [n, H, W, 3]` RGB."""
        import torch

        network = self._network
        activations = network.forward(torch.from_numpy(self._preprocessing.normalized(resized)))

        def pull_back(directions: Floats) -> Floats:
            pulled: Floats = network.pull_back(activations, torch.from_numpy(directions)).numpy()
            return pulled

        embedding = activations.embedding.numpy()
        if self._scores is not None:
            # It ends in its logits, see `export.models.classifier`.
            embedding = scores_of(embedding, self._scores)
        return NetworkValues(
            embedding,
            activations.feature_map.numpy(),
            network.head_end(activations).numpy(),
            pull_back,
        )


class UnfoldedSource:
    """The network taken out of the folded model itself: for where the original is not at hand.

    It checks everything that was grafted, and not whether the network was exported well.
    """

    name = "its own network, unfolded"

    def __init__(self, model: onnx.ModelProto, contract: Contract) -> None:
        network = network_of(model, contract)
        self._uint8 = takes_uint8(network)
        self._preprocessing = contract.preprocessing
        self._model = network
        self._network: Network | None = None
        if contract.scores is not None:
            self._head_end, _ = find_logits(network.graph, EMBEDDING)
        else:
            self._head_end = find_normalization(network.graph, EMBEDDING) or EMBEDDING
        self._classifier = contract.scores is not None
        shown = onnx.ModelProto()
        shown.CopyFrom(network)
        if self._head_end != EMBEDDING:
            shown.graph.output.append(onnx.ValueInfoProto(name=self._head_end))
        self._names = [value.name for value in shown.graph.output]
        self._session = cpu_session(shown)

    def run(self, resized: npt.NDArray[np.uint8]) -> NetworkValues:
        """What the network says of images `uint8 [n, H, W, 3]` RGB."""
        images = resized if self._uint8 else self._preprocessing.normalized(resized)
        values = dict(zip(self._names, self._session.run(None, {IMAGE: images}), strict=True))

        def pull_back(directions: Floats) -> Floats:
            import torch

            network = self._in_torch()
            activations = network.forward(torch.from_numpy(self._preprocessing.normalized(resized)))
            pulled: Floats = network.pull_back(activations, torch.from_numpy(directions)).numpy()
            return pulled

        head_end = values[self._head_end].reshape(len(resized), -1)
        return NetworkValues(values[EMBEDDING], values[FEATURE_MAP], head_end, pull_back)

    def _in_torch(self) -> Network:
        """The network with a head that can be differentiated."""
        if self._uint8:
            raise FoldcamError(
                "The model computes grad-weights at each image, and its network takes uint8 "
                "images by itself: name the MODEL that it came from to compare them."
            )
        from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
        from foldcam.export.networks.onnx_networks.summand_network import with_summands
        from foldcam.export.onnx_graphs.file import OnnxFile, ending_at

        if self._network is None:
            file = OnnxFile(Path("network.onnx"), self._model, EMBEDDING)
            if self._classifier:
                file = ending_at(file, self._head_end)
            recipe = self._preprocessing
            size = (recipe.height, recipe.width)
            self._network = with_summands(OnnxNetwork(file, size))
        return self._network


MOST_LEVELS = 1
"""Grey levels of 255 by which a pixel may differ: both round, and not always to the same side."""


class FrameInput:
    """The first part of a model of whole frames, run alone."""

    def __init__(self, model: onnx.ModelProto, contract: Contract) -> None:
        self._session = cpu_session(frame_graph(model))
        self._recipe = contract.preprocessing
        self.difference = 0
        """The greatest difference of a pixel from the host's so far, in grey levels of 255."""

    def __call__(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """What the graph makes of frames.

        Args:
            frames: `uint8 [n, height, width, 3]` RGB of the frame's size.

        Returns:
            `uint8 [n, H, W, 3]` RGB of the network's size.
        """
        (planes,) = self._session.run([PLANES], {IMAGE: frames})
        made = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        for frame, found in zip(frames, made, strict=True):
            apart = np.abs(found - self._recipe.resized(frame)[0]).max()
            self.difference = max(self.difference, int(np.ceil(apart)))
        return np.asarray(np.clip(np.rint(made), 0, 255), np.uint8)
