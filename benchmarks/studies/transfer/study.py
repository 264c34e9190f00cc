"""`foldcam evaluate transfer`: which rows, channels, side of the normalisation, and head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap, paired_bootstrap
from foldcam.benchmarks.evaluation.documents import Progress, write_json
from foldcam.benchmarks.evaluation.localization.evaluate import Runner
from foldcam.benchmarks.evaluation.localization.methods import (
    Methods,
    through_normalization,
    weighted,
)
from foldcam.benchmarks.evaluation.localization.metrics import grid_pointing
from foldcam.benchmarks.evaluation.localization.study import split_samples
from foldcam.benchmarks.evaluation.localization.subjects import (
    Grid,
    Subjects,
    draw_grids,
    grid_image,
    load_subjects,
)
from foldcam.benchmarks.studies.transfer.baselines import compared
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Sample
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.demo import PREPROCESSING, pretrained_backbone
from foldcam.export.models.spec import LoadedModel
from foldcam.export.models.trained_file import trained_architecture
from foldcam.export.models.training.trainer import TrainingOptions, train
from foldcam.export.models.weights import load_weights
from foldcam.export.networks.cut import Network
from foldcam.export.networks.onnx_networks.summand_network import with_summands
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.images.preprocess import Preprocessing

HEADS = ("linear", "mlp", "depthwise", "flatten", "generalised_mean", "attention", "layernorm")
"""Linear over the average: exact; a LayerNorm in between too, with its scale held constant.
Hidden layer, generalised mean: the Jacobian depends on the image; attention pooling: on the
image's weights, which the summands hold. Flatten, global depthwise convolution: positions are
weighted differently."""

_CHANNELS, _MAP = 1280, 7
_SIZE = 128
_NARROW = 64


class HeadedNetwork(nn.Module):
    """Feature map `[N, 1280, 7, 7]` at 224 x 224, then one of `HEADS`, normalised.

    Args:
        head: one of `HEADS`.
    """

    def __init__(self, head: str) -> None:
        super().__init__()
        self.backbone = pretrained_backbone()
        self.preprocessing = PREPROCESSING
        self.head = _HEADS[head]()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `float32 [N, 3, 224, 224]` -> embedding `[N, 128]` of norm 1."""
        feature_map = cast(Any, self.backbone).extract_features(image)
        return nn.functional.normalize(self.head(feature_map), dim=1)


class _Average(nn.Module):
    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return feature_map.mean(dim=(2, 3))


class _GeneralisedMean(nn.Module):
    """`(mean A^p)^(1/p)` with a learned `p` (Radenovic et al., TPAMI 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        powers = feature_map.clamp(min=1e-6) ** self.power
        return powers.mean(dim=(2, 3)) ** (1 / self.power)


class _Attention(nn.Module):
    """Positions weighted by a softmax over a learned score."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(_CHANNELS, 1)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        positions = feature_map.flatten(2).transpose(1, 2)
        weights = torch.softmax(self.score(positions), dim=1)
        return (weights * positions).sum(dim=1)


_HEADS = {
    "linear": lambda: nn.Sequential(_Average(), nn.Linear(_CHANNELS, _SIZE, bias=False)),
    "mlp": lambda: nn.Sequential(
        _Average(), nn.Linear(_CHANNELS, 256), nn.ReLU(), nn.Linear(256, _SIZE)
    ),
    "layernorm": lambda: nn.Sequential(
        _Average(), nn.LayerNorm(_CHANNELS), nn.Linear(_CHANNELS, _SIZE)
    ),
    "generalised_mean": lambda: nn.Sequential(
        _GeneralisedMean(), nn.Linear(_CHANNELS, _SIZE, bias=False)
    ),
    "attention": lambda: nn.Sequential(_Attention(), nn.Linear(_CHANNELS, _SIZE, bias=False)),
    "flatten": lambda: nn.Sequential(
        nn.Conv2d(_CHANNELS, _NARROW, 1), nn.Flatten(), nn.Linear(_NARROW * _MAP * _MAP, _SIZE)
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(_CHANNELS, _CHANNELS, _MAP, groups=_CHANNELS, bias=False),
        nn.Flatten(),
        nn.Linear(_CHANNELS, _SIZE),
    ),
}


Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_BATCH = 16
_FOLDS = 3
_REPEATS = 2
_NEIGHBORS = (1, 3, 5, 10)


def run_transfer_study(
    data: Path, out: Path, training: TrainingOptions, progress: Progress
) -> dict[str, Any]:
    """Compare ways of transfer on a held-out third of the *training* half.

    Args:
        data: images with boxes, as for `foldcam evaluate localization`.
        out: folder of the result `transfer.json` and of the trained networks.

    Returns:
        The document that was written: `variants` for the linear head, and for every head
        `heads` and `summands`. It is written after each head.
    """
    training_half, _ = split_samples(data, training.seed)
    rows, queries = _fold(training_half, training.seed)
    trained = {"epochs": training.epochs, "loss": training.loss, "seed": training.seed}
    document: dict[str, Any] = {
        "data": data.resolve().name,
        "images": {"bank": len(rows), "queries": len(queries)},
        "training": trained,
        "versions": tool_versions(),
        "heads": {},
        "summands": {"training": trained, "heads": {}},
    }
    for head in HEADS:
        case = _Case.trained(head, rows, queries, out, training, progress)
        document["heads"][head] = case.head_row()
        if head == "linear":
            document["variants"] = case.variants()
        if head == "layernorm":
            document["held_scales"] = case.held_scales(rows)
        blurring = partial(progress, f"{head}: blurring")
        document["summands"]["heads"][head] = case.summands(rows, blurring)
        write_json(out / "transfer.json", document)
    return document


class _Case:
    """One trained network, its bank, and the grids of the held-out images."""

    def __init__(
        self,
        module: nn.Module,
        network: Network,
        bank: Bank,
        recipe: Preprocessing,
        queries: Subjects,
        seed: int,
    ) -> None:
        self.module, self.recipe = module, recipe
        self.network, self.bank, self.queries = network, bank, queries
        self.seed = seed
        self.methods = Methods(network, bank)
        self.runner = Runner(network, self.methods, recipe, seed)
        singles = self.runner.activations(queries.resized)
        self.singles = singles
        self.similarities = _unit(singles.embedding.numpy()) @ bank.embeddings.T
        self.nearest: Integers = self.similarities.argmax(axis=1).astype(np.int64)
        self.grids = draw_grids(queries.labels, 2, _REPEATS, seed)
        self.maps = self._grid_maps()

    @staticmethod
    def trained(
        head: str,
        rows: Sequence[Sample],
        queries: Sequence[Sample],
        out: Path,
        options: TrainingOptions,
        progress: Progress,
    ) -> _Case:
        """Train a head, build its bank."""
        torch.manual_seed(options.seed)
        module = HeadedNetwork(head)
        recipe = module.preprocessing
        loaded = LoadedModel(
            module.eval(), recipe, f"foldcam.benchmarks.studies.transfer.study:{head}", ""
        )
        path = out / f"{head}.safetensors"
        train(
            loaded,
            rows,
            path,
            replace(options, embedding_size=None),
            progress=lambda stage, done, total: progress(f"{head}: {stage}", done, total),
        )
        assert trained_architecture(path) is not None
        load_weights(module, path)
        network = TorchNetwork(module, (recipe.height, recipe.width))
        bank = build_bank(network, recipe, rows, parse_objective("all-triplets")).bank
        found = load_subjects(queries, recipe)
        return _Case(module, network, bank, recipe, found, options.seed)

    def head_row(self) -> dict[str, Any]:
        """Transferred against the image's own gradient, and what the spatial mean loses."""
        transferred = self._scores(self.bank.row_grad_weights()[self.nearest])
        directions = torch.from_numpy(self.methods.direction(self.nearest))
        own_weights = self.network.pull_back(self.singles, directions).numpy()
        own = self._scores(own_weights)
        gradient = self.network.pull_back_map(self.singles, directions)
        feature_map = self.singles.feature_map
        by_position = torch.relu((gradient * feature_map).sum(dim=1)).numpy()
        by_mean = weighted(own_weights, feature_map.numpy())
        shown = weighted(self.bank.row_grad_weights()[self.nearest], feature_map.numpy())
        return {
            "linear": self.network.head_is_linear(self.singles),
            "positional": self.network.head_depends_on_position(self.singles),
            "recall_at_1": self._recall(),
            "transferred": _document(bootstrap(transferred)),
            "aggregated_backprop": _document(bootstrap(own)),
            "difference": _document(paired_bootstrap(transferred, own)),
            "map_correlation": _correlation(shown, by_mean),
            "position_correlation": _correlation(by_mean, by_position),
        }

    def held_scales(self, rows: Sequence[Sample]) -> dict[str, Any]:
        """The scale of a normalisation inside the head held constant, against torch's gradient."""
        held = self._scores(self.bank.row_grad_weights()[self.nearest])
        size = (self.recipe.height, self.recipe.width)
        network = TorchNetwork(self.module, size, hold=False)
        bank = build_bank(network, self.recipe, rows, parse_objective("all-triplets")).bank
        not_held = self._scores(bank.row_grad_weights()[self.nearest])
        return {
            "held": _document(bootstrap(held)),
            "not_held": _document(bootstrap(not_held)),
            "difference": _document(paired_bootstrap(held, not_held)),
        }

    def summands(
        self, rows: Sequence[Sample], progress: Callable[[int, int], None]
    ) -> dict[str, Any]:
        """What contributions are best compared with, and whose gradient is best taken."""
        cuts = [(self.network, self.bank)]
        network = with_summands(self.network)
        if network is not self.network:
            objective = parse_objective("all-triplets")
            cuts.append((network, build_bank(network, self.recipe, rows, objective).bank))
        return compared(
            cuts, self.recipe, self.queries, self.nearest, seed=self.seed, progress=progress
        )

    def variants(self) -> dict[str, Any]:
        """Ways of transfer for this network, each with its difference to the default."""
        row_weights = self.bank.row_grad_weights()
        default = self._scores(row_weights[self.nearest])
        tried: dict[str, npt.NDArray[np.float64]] = {"nearest row, all channels": default}
        order = np.argsort(-self.similarities, axis=1)
        for k in _NEIGHBORS[1:]:
            chosen = order[:, :k]
            tried[f"{k} nearest rows, mean"] = self._scores(row_weights[chosen].mean(axis=1))
            close = np.take_along_axis(self.similarities, chosen, axis=1)
            weights = np.exp((close - close.max(axis=1, keepdims=True)) / 0.05)
            weights /= weights.sum(axis=1, keepdims=True)
            mixed = (row_weights[chosen] * weights[..., None]).sum(axis=1).astype(np.float32)
            tried[f"{k} nearest rows, softmax of similarity"] = self._scores(mixed)
        positive = np.maximum(row_weights, 0)
        tried["nearest row, positive channels only"] = self._scores(positive[self.nearest])
        for text in ("sampled:1", "sampled:5", "sampled:50", "pml:TripletMarginLoss:margin=0.2"):
            tried[f"nearest row, {text}"] = self._scores(self._weights_of(text)[self.nearest])
        tried["nearest row, through the normalisation"] = self._scores(
            self._through_normalization()[self.nearest]
        )
        return {
            name: {
                "grid_pointing": _document(bootstrap(values)),
                "difference": _document(paired_bootstrap(values, default)),
            }
            for name, values in tried.items()
        }

    def _weights_of(self, objective: str) -> Floats:
        """Grad-weights of every bank row under another objective (the head is linear)."""
        directions = parse_objective(objective).directions(
            self.bank.embeddings, self.methods.classes
        )
        return self._pulled(directions.values)

    def _through_normalization(self) -> Floats:
        """All triplets, but pulled through the normalisation at each bank row."""
        directions = self.methods.direction(np.arange(self.bank.rows))
        unit = torch.from_numpy(self.bank.embeddings)
        return self._pulled(through_normalization(unit, torch.from_numpy(directions)).numpy())

    def _pulled(self, directions: Floats) -> Floats:
        from foldcam.export.banks.grad_weights import pull_back_anywhere

        return pull_back_anywhere(self.network, self.singles, directions)

    def _recall(self) -> float:
        labels = np.asarray(self.bank.row_labels())
        return float(np.mean(labels[self.nearest] == np.asarray(self.queries.labels)))

    def _grid_maps(self) -> list[tuple[Grid, Floats]]:
        """The feature map of each grid through the network."""
        found: list[tuple[Grid, Floats]] = []
        for start in range(0, len(self.grids), _BATCH):
            block = self.grids[start : start + _BATCH]
            images = [grid_image(g, self.queries.images, self.runner.preprocessing) for g in block]
            maps = self.runner.activations(images).feature_map.numpy()
            found += list(zip(block, maps, strict=True))
        return found

    def _scores(self, grad_weights: Floats) -> npt.NDArray[np.float64]:
        """Grid pointing per held-out image, for grad-weights `[N, K]` of the single images."""
        sums = np.zeros(len(self.queries))
        for grid, feature_map in self.maps:
            heat = weighted(grad_weights[[grid.asked]], feature_map[None])[0]
            sums[grid.asked] += grid_pointing(heat, 2, 2, grid.cell)
        return sums / _REPEATS


def _fold(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Two thirds of each label as bank, one third as queries."""
    generator = np.random.default_rng([seed, 9])
    rows: list[Sample] = []
    queries: list[Sample] = []
    for label in sorted({sample.label for sample in samples}):
        members = [sample for sample in samples if sample.label == label]
        order = generator.permutation(len(members))
        cut = len(members) // _FOLDS
        queries += [members[n] for n in order[:cut]]
        rows += [members[n] for n in order[cut:]]
    return rows, queries


def text(document: Mapping[str, Any]) -> str:
    """The variants, the heads, and what heads do with summands, for a terminal."""
    lines = []
    for name, row in document["variants"].items():
        value, gap = row["grid_pointing"], row["difference"]
        lines.append(f"{name:<48}{value['mean']:6.3f}  {_with_range(gap)}")
    lines.append("")
    for name, row in document["heads"].items():
        lines.append(
            f"{name:<17} transferred {row['transferred']['mean']:.3f}, own gradient "
            f"{row['aggregated_backprop']['mean']:.3f}, maps correlate "
            f"{row['map_correlation']:.3f}; with the gradient by position "
            f"{row['position_correlation']:.3f}"
        )
    lines.append("")
    for name, row in document["summands"]["heads"].items():
        for pair, gaps in row["differences"].items():
            parts = [f"{measure} {_with_range(gap)}" for measure, gap in gaps.items()]
            lines.append(f"{name:<17} {pair:<26} {'  '.join(parts)}")
    return "\n".join(lines)


def _with_range(gap: Mapping[str, float]) -> str:
    return f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"


def _unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def _correlation(a: Floats, b: Floats) -> float:
    """Mean over images of the correlation between two maps."""
    values = []
    for x, y in zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True):
        if x.std() > 0 and y.std() > 0:
            values.append(float(np.corrcoef(x, y)[0, 1]))
    return float(np.mean(values)) if values else 0.0


def _document(interval: Interval) -> dict[str, float]:
    return {
        "mean": round(interval.mean, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
    }
