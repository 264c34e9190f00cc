"""`foldcam evaluate architectures`: every architecture of the zoo, exported and verified.

TensorRT RTX's parser and compiler, which need no GPU, take each of them as well.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.documents import Progress, write_json
from foldcam.benchmarks.studies.architectures.zoo import Architecture, architectures
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Dataset, Sample
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.spec import LoadedModel
from foldcam.export.verification.images import ImagesToVerify
from foldcam.export.verification.run import verify_model
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError


def build_error(model: bytes) -> str | None:
    """Parse a folded model and build an engine of it for batches of 1 to 4.

    Args:
        model: the ONNX file's bytes.

    Returns:
        None where it builds, else the first reason.
    """
    import tensorrt_rtx as trt

    builder = trt.Builder(_logger())
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, _logger())
    if not parser.parse(model):
        return str(parser.get_error(0).desc())
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    image = network.get_input(0)
    rest = list(image.shape)[1:]
    profile.set_shape(image.name, [1, *rest], [2, *rest], [4, *rest])
    config.add_optimization_profile(profile)
    # It returns None and does not raise.
    built = builder.build_serialized_network(network, config)
    return "the build failed" if built is None else None


@cache
def _logger() -> Any:
    """One per process: TensorRT keeps the first it is given."""
    import tensorrt_rtx as trt

    return trt.Logger(trt.Logger.ERROR)


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

    return build_error(path.read_bytes()) is None


RESULT = "architectures.json"


def run_architectures(out: Path, progress: Progress) -> dict[str, Any]:
    """Export, verify and compile every architecture.

    Returns:
        The document that was written: `architectures.<name>.<field of Row>`.
    """
    zoo = architectures()
    rows: dict[str, Any] = {}
    for number, (name, architecture) in enumerate(zoo.items()):
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = try_architecture(architecture, Path(folder)).document()
        progress("architectures", number + 1, len(zoo))
    document = {"architectures": rows, "versions": tool_versions()}
    write_json(out / RESULT, document)
    return document


def markdown_table(document: dict[str, Any]) -> str:
    """The table of README."""
    heads = (
        "network", "what is peculiar", "feature map found", "D", "cosine to torch",
        "heatmap differs by", "TensorRT RTX",
    )  # fmt: skip
    rows = []
    for name, row in document["architectures"].items():
        built = {True: "builds", False: "**fails**", None: "not tried"}[row["tensorrt_rtx"]]
        shape = " x ".join(map(str, row["feature_map"]))
        rows.append([
            name, row["what"], f"`{row['layer']}` {shape}", str(row["embedding_size"]),
            f"{row['embedding_cosine_worst']:.6f}", f"{row['heatmap_difference_worst']:.0e}", built,
        ])  # fmt: skip
    return markdown.table(heads, rows)


def failed(document: dict[str, Any]) -> list[str]:
    """Names of the architectures that `foldcam verify` or TensorRT RTX refuse."""
    return [
        name
        for name, row in document["architectures"].items()
        if not row["passed"] or row["tensorrt_rtx"] is False
    ]
