"""One architecture through the whole of `foldcam export`, verified, and given to TensorRT."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from foldcam.benchmarks.studies.architectures.zoo import Architecture
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Dataset, Sample
from foldcam.export.exporting.exporter import export_model
from foldcam.export.models.spec import LoadedModel
from foldcam.export.verification.images import ImagesToVerify
from foldcam.export.verification.run import verify_model
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

_LABELS = 3
_PER_LABEL = 4


@dataclass(frozen=True)
class Row:
    """What became of one architecture."""

    what: str  # its peculiarity
    input: tuple[int, int]  # `(height, width)` in pixels
    layer: str  # name of the feature map that was found
    feature_map: tuple[int, int, int]  # `(K, h, w)`
    embedding_size: int  # D
    head_linear: bool  # whether transferred grad-weights are exact
    embedding_cosine_worst: float  # between torch and ONNX Runtime
    heatmap_difference_worst: float  # greatest difference of a cell, of 0 to 1
    similarity_difference_worst: float  # of the reported similarity
    same_neighbor: float  # share of images with the same nearest row
    passed: bool  # whether `foldcam verify` passes
    tensorrt_rtx: bool | None  # whether TensorRT RTX builds it; None where it is not installed

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def try_architecture(architecture: Architecture, folder: Path) -> Row:
    """Build it, export it over a few pictures, verify it, and build it with TensorRT RTX."""
    height, width = architecture.size
    samples = _pictures(folder / "pictures", height, width)
    torch.manual_seed(0)
    module = architecture.make().eval()
    _settle(module, architecture.size)
    loaded = LoadedModel(
        module, Preprocessing(width, height), "architecture", "", architecture.output
    )
    report = export_model(
        loaded,
        Dataset("pictures", "all", samples),
        folder / "model.onnx",
        parse_objective("all-triplets"),
    )
    contract = report.contract
    verified = verify_model(
        report.path,
        loaded.network(contract.layer),
        ImagesToVerify(samples),
    ).main
    return Row(
        what=architecture.what,
        input=architecture.size,
        layer=contract.layer,
        feature_map=contract.feature_map,
        embedding_size=contract.bank.embedding_size,
        head_linear=report.bank.head.linear,
        embedding_cosine_worst=verified.embedding_cosine_worst,
        heatmap_difference_worst=verified.heatmap_difference_worst,
        similarity_difference_worst=verified.similarity_difference_worst,
        same_neighbor=verified.same_neighbor,
        passed=verified.passed,
        tensorrt_rtx=_builds(report.path),
    )


@torch.no_grad()
def _settle(module: nn.Module, size: tuple[int, int]) -> None:
    """Give every BatchNorm the statistics of its input, as training would."""
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    module.train()
    module(torch.randn(8, 3, *size, generator=generator))
    module.eval()


def _pictures(folder: Path, height: int, width: int) -> tuple[Sample, ...]:
    """Seeded pictures of blobs, a colour for each label."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for label in range(_LABELS):
        for number in range(_PER_LABEL):
            coarse = generator.integers(0, 120, (8, 6, 3), np.uint8)
            coarse[..., label] += 120
            picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            path = folder / f"{label}-{number}.png"
            if not cv2.imwrite(str(path), picture):
                raise FoldcamError(f"{path} cannot be written.")
            samples.append(Sample(path, str(label)))
    return tuple(samples)


def _builds(path: Path) -> bool | None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return None
    from foldcam.benchmarks.studies.architectures.rtx import build_error

    return build_error(path.read_bytes()) is None
