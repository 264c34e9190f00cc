"""Folded graphs of any size, with plausible rows, on a network with next to no backbone.

What foldcam adds does not depend on what stands before the feature map. Behind a backbone of
milliseconds the microseconds of a small bank drown; behind one convolution they can be timed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from foldcam.benchmarks.cost.gpu.study import random_bank
from foldcam.benchmarks.evaluation.graphs import plain_graph, save_graph
from foldcam.benchmarks.evaluation.interleaved import Run, interleaved_runs, open_session
from foldcam.export.grafting.fold import FoldOptions, HeatmapSize, fold
from foldcam.export.grafting.options import StorageOptions
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import IMAGE, Contract, Origin
from foldcam.runtime.images.preprocess import Preprocessing

Floats = npt.NDArray[np.float32]

_NOISE = 0.05


@dataclass(frozen=True)
class GrownRows:
    """Rows, the real ones first."""

    embeddings: Floats  # `float32 [N, D]` of norm 1
    labels: tuple[str, ...]  # one per row
    real: int  # how many of them the network gave to pixels; the rest are interpolations


def grown(embeddings: Floats, labels: Sequence[str], count: int, seed: int = 0) -> GrownRows:
    """`count` rows: those that are there, and then points between two of one label.

    A point lies anywhere between its two rows, moved by noise of five percent of a row's length,
    and on the unit sphere again: the neighbourhoods stay those of real embeddings, and no row
    stands twice.

    Args:
        embeddings: `float32 [R, D]` of norm 1.
    """
    real = min(count, len(labels))
    if count <= len(labels):
        return GrownRows(embeddings[:count], tuple(labels[:count]), real)
    generator = np.random.default_rng(seed)
    names, classes = np.unique(np.asarray(labels), return_inverse=True)
    members = [np.flatnonzero(classes == number) for number in range(len(names))]
    missing = count - real
    first = generator.integers(0, real, missing)
    second = np.empty(missing, np.int64)
    for number, of_label in enumerate(members):
        asked = np.flatnonzero(classes[first] == number)
        second[asked] = of_label[generator.integers(0, len(of_label), len(asked))]
    share = generator.random((missing, 1), np.float32)
    size = embeddings.shape[1]
    between = share * embeddings[first] + (1 - share) * embeddings[second]
    between += (_NOISE / np.sqrt(size)) * generator.standard_normal((missing, size), np.float32)
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-12)
    everything = np.concatenate([embeddings, between.astype(np.float32)])
    return GrownRows(everything, (*labels, *(labels[int(n)] for n in first)), real)


_STRIDE = 32
_SIDE = 224
_CHANNELS = 1280


class Bare(nn.Module):
    """One convolution, pooled and projected: `[N, 3, 224, 224]` -> `[N, D]` of norm 1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, _CHANNELS, 4, _STRIDE)
        self.projection = nn.Linear(_CHANNELS, size, bias=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image -> embedding."""
        pooled = self.convolution(image).relu().mean((2, 3))
        return nn.functional.normalize(self.projection(pooled), dim=1)


@dataclass(frozen=True)
class Added:
    """What folding adds to one pass, by the processor's clock."""

    microseconds: float  # median over paired rounds of folded less plain
    # low, high: quartiles of the same
    low: float
    high: float
    plain_microseconds: float  # median of the plain graph
    bytes_added: int  # by the file
    folding_seconds: float  # to store the bank and make the graph


class BareGraphs:
    """Plain and folded graphs of bare networks."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._folder = folder
        self._seed = seed
        self._networks: dict[int, tuple[TorchNetwork, onnx.ModelProto, Path]] = {}

    def added(
        self,
        rows: int,
        size: int = 128,
        *,
        heatmap: HeatmapSize = "native",
        storage: StorageOptions | None = None,
        batch: int = 1,
        rounds: int = 100,
    ) -> tuple[Added, Contract]:
        """Fold a random bank, and time it against the plain graph.

        Args:
            size: `D`.
            heatmap: as `FoldOptions.heatmap_size`.
            rounds: paired runs.
        """
        network, model, plain = self._network(size)
        recipe = Preprocessing(_SIDE, _SIDE)
        start = time.perf_counter()
        folded = fold(
            model,
            random_bank(network, rows, self._seed),
            preprocessing=recipe,
            layer=network.layer,
            origin=Origin("bare", "", network.sha256(), "random", "all", ""),
            versions=tool_versions(),
            options=FoldOptions(heatmap_size=heatmap, storage=storage or StorageOptions()),
        )
        seconds = time.perf_counter() - start
        path = self._folder / "bare-folded.onnx"
        save_graph(folded, path)
        added = difference({"plain": plain, "folded": path}, batch, rounds, self._seed)
        grown = path.stat().st_size - plain.stat().st_size
        return Added(*added, bytes_added=grown, folding_seconds=seconds), read_contract(path)

    def _network(self, size: int) -> tuple[TorchNetwork, onnx.ModelProto, Path]:
        if size not in self._networks:
            torch.manual_seed(self._seed)
            network = TorchNetwork(Bare(size).eval(), (_SIDE, _SIDE))
            model, plain = network.to_onnx(), self._folder / f"bare-{size}.onnx"
            save_graph(plain_graph(model), plain)
            self._networks[size] = network, model, plain
        return self._networks[size]


def _run_of(session: onnxruntime.InferenceSession, given: dict[str, Any]) -> Run:
    def run(_: int) -> None:
        session.run(None, given)

    return run


def difference(
    files: Mapping[str, Path], batch: int, rounds: int, seed: int
) -> tuple[float, float, float, float]:
    """Microseconds of `folded` less `plain`: median and quartiles; and of `plain`, the median."""
    generator = np.random.default_rng(seed)
    runs: dict[str, Run] = {}
    image = None
    for name, path in files.items():
        session = open_session(path)
        sizes = session.get_inputs()[0].shape[1:]
        if image is None:
            image = generator.standard_normal((batch, *sizes), np.float32)
        given = {IMAGE: image}
        runs[name] = _run_of(session, given)
    seconds = interleaved_runs(runs, rounds, seed)
    extra = 1e6 * (seconds["folded"].processor - seconds["plain"].processor)
    low, middle, high = np.percentile(extra, [25, 50, 75])
    plain = 1e6 * float(np.median(seconds["plain"].processor))
    return float(middle), float(low), float(high), plain
