"""Two checks of the explanation itself: does chance move it, does the network?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from foldcam.benchmarks.evaluation.localization.evaluate import Runner
from foldcam.benchmarks.evaluation.localization.methods import (
    METHODS,
    TRANSFERRED,
    Methods,
    Question,
)
from foldcam.benchmarks.evaluation.localization.metrics import heat_in_box, rank_correlation
from foldcam.benchmarks.evaluation.localization.subjects import Subjects
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.grad_weights import pull_back_anywhere
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Sample
from foldcam.export.datasets.reading import read_picture
from foldcam.export.networks.cut import Activations, Network
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.images.preprocess import Preprocessing

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_BATCH = 16
DRAWS = 10
_STABILITY_IMAGES = 48
# Share of the weights, counted from the output, that is shuffled.
_SHUFFLED = (0.1, 0.5, 1.0)


def stability(
    network: Network,
    bank: Bank,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    test: Subjects,
    rows: Integers,
    objectives: Sequence[str] = ("sampled:5", "sampled:50"),
) -> dict[str, dict[str, float]]:
    """How far a heatmap moves when its triplets are drawn again, over ten draws.

    Args:
        test: images to explain; the first 48 spread over them are used.

    Returns:
        Method -> `map_spread`, the standard deviation over draws of a heatmap's
        cells (maps scaled to [0, 1]), averaged over cells and images; and
        `heat_in_box_spread`, that of the share of heat in the box.
    """
    step = max(1, len(test) // _STABILITY_IMAGES)
    chosen = np.arange(0, len(test), step)[:_STABILITY_IMAGES]
    methods = Methods(network, bank)
    runner = Runner(network, methods, preprocessing, 0)
    size = (preprocessing.height, preprocessing.width)
    blocks = [
        (part, runner.activations([test.resized[n] for n in part]))
        for part in np.array_split(chosen, -(-len(chosen) // _BATCH))
    ]
    images = [read_picture(sample).image for sample in samples[:8]]
    probe = runner.activations([preprocessing.resized(image)[0] for image in images])
    linear = network.head_is_linear(probe)
    maps: dict[str, list[Floats]] = {}
    for draw in range(DRAWS):
        for name in ("one_triplet_gradcam", "one_triplet_before_norm", TRANSFERRED):
            found = [
                methods.heatmaps(name, activations, Question(rows[part], 7919 * (draw + 1)))
                for part, activations in blocks
            ]
            maps.setdefault(name, []).append(np.concatenate(found))
        for text in objectives:
            other = (
                _resampled(network, bank, probe, text, draw)
                if linear
                else _bank(network, preprocessing, samples, text, draw)
            )
            sampled = Methods(network, other)
            found = [
                sampled.heatmaps(TRANSFERRED, activations, Question(rows[part], 0))
                for part, activations in blocks
            ]
            maps.setdefault(f"transferred, {text}", []).append(np.concatenate(found))
    result = {}
    for name, draws in maps.items():
        scaled = np.stack([_scaled(draw) for draw in draws])
        shares = [
            [heat_in_box(heat, test.boxes[n], size) for heat, n in zip(draw, chosen, strict=True)]
            for draw in draws
        ]
        result[name] = {
            "map_spread": float(scaled.std(axis=0).mean()),
            "heat_in_box_spread": float(np.std(shares, axis=0).mean()),
        }
    return result


def randomization(
    module: nn.Module,
    layer: str,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    test: Subjects,
    reference: dict[str, Floats],
    seed: int,
) -> dict[str, dict[str, float]]:
    """The model-randomization check (Adebayo et al. 2018): shuffled weights must move the map.

    Weights are shuffled within their tensors from the output downwards, the bank is
    built again with the broken network, and its maps are compared with the intact ones.

    Args:
        reference: method -> `float32 [N, h, w]`, maps of the intact network.

    Returns:
        Share of shuffled weights (`0.1`, `0.5`, `1.0`) -> method -> mean rank
        correlation with the intact map.
    """
    names = [n for n in METHODS if n not in ("centred_blob", "uniform", "random")]
    result: dict[str, dict[str, float]] = {}
    for share in _SHUFFLED:
        broken = _shuffled(module, share, seed)
        network = TorchNetwork(broken, (preprocessing.height, preprocessing.width), layer)
        bank = _bank(network, preprocessing, samples, "all-triplets", seed)
        runner = Runner(network, Methods(network, bank), preprocessing, seed)
        rows = runner.similarities(bank, test.resized).argmax(axis=1).astype(np.int64)
        maps = runner.single(test.resized, rows)
        result[str(share)] = {
            name: float(np.mean(list(map(rank_correlation, maps[name], reference[name]))))
            for name in names
        }
    return result


def _bank(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    objective: str,
    seed: int,
) -> Bank:
    return build_bank(network, preprocessing, samples, parse_objective(objective, seed)).bank


def _resampled(network: Network, bank: Bank, probe: Activations, objective: str, seed: int) -> Bank:
    """For a linear head: the bank with other triplets, its embeddings as they are."""
    _, classes = np.unique(bank.row_labels(), return_inverse=True)
    directions = parse_objective(objective, seed).directions(bank.embeddings, classes)
    grad_weights = pull_back_anywhere(network, probe, directions.values)
    return replace(
        bank,
        grad_weights=grad_weights,
        grad_index=np.arange(bank.rows, dtype=np.int32),
        objective=objective,
    )


@torch.no_grad()
def _shuffled(module: nn.Module, share: float, seed: int) -> nn.Module:
    """A copy whose last `share` of the weights is shuffled within each tensor."""
    broken = copy.deepcopy(module)
    parameters = list(broken.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    generator = torch.Generator().manual_seed(seed)
    done = 0
    for parameter in reversed(parameters):
        if done >= share * total:
            break
        order = torch.randperm(parameter.numel(), generator=generator)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))
        done += parameter.numel()
    return broken


def _scaled(maps: Floats) -> Floats:
    greatest = maps.max(axis=(1, 2), keepdims=True)
    scaled: Floats = np.divide(maps, greatest, out=np.zeros_like(maps), where=greatest > 0)
    return scaled
