"""The networks that are quantized: trained, exported, and the data they are judged on."""

from __future__ import annotations

import csv
import io
import logging
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import onnx

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.houses.houses import load_houses, split_houses
from foldcam.benchmarks.evaluation.houses.study import OBJECTIVE, TRAINING
from foldcam.benchmarks.studies.int8.networks import LAST_OF_FRONT, settle
from foldcam.calibrate.graph import is_grafted, name_of
from foldcam.calibrate.selection import Pictures
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.objectives.kernel import parse_kernel
from foldcam.export.datasets import Dataset, Sample, load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.models.spec import load_model, with_overrides
from foldcam.export.models.training.trainer import TrainingOptions, train
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.schema import IMAGE, Contract
from foldcam.runtime.system.files import atomic_path


def quantize_naively(
    model: onnx.ModelProto, contract: Contract, pictures: Pictures
) -> onnx.ModelProto:
    """Every operator of the network, static, per tensor, by the extremes (MinMax).

    What foldcam grafted is left out, so that it is the network alone which is compared.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._places = iter(range(len(pictures.resized)))

        def get_next(self) -> dict[str, Any] | None:
            place = next(self._places, None)
            if place is None:
                return None
            image = pictures.resized[place][None]
            uint8 = contract.input_type == "uint8"
            return {IMAGE: image if uint8 else contract.preprocessing.normalized(image)}

    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node in named.graph.node:
        # It leaves nodes out by their names.
        node.name = name_of(node)
    excluded = [node.name for node in named.graph.node if is_grafted(node)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "naive.onnx"
        # It warns once per tensor that the model was not preprocessed.
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                named,
                str(path),
                Reader(),
                quant_format=QuantFormat.QDQ,
                nodes_to_exclude=excluded,
            )
        finally:
            logging.disable(logging.NOTSET)
        return load_message(path)


DataName = Literal["birds", "houses"]

_KIND = "frontal"
_BIRDS = TrainingOptions()
# A body of random weights: all of it learns, more slowly, and for longer.
_BODY: dict[str, Any] = {"train_from": LAST_OF_FRONT, "learning_rate": 6e-4}
_BODY_BIRDS: dict[str, Any] = {**_BODY, "epochs": 40, "mosaics": 400, "mosaics_per_batch": 8}
_BODY_HOUSES: dict[str, Any] = {**_BODY, "epochs": 20, "views": 4}


@dataclass(frozen=True)
class Subject:
    """One network on one data set."""

    network: str  # its name
    spec: str  # MODEL that it is trained from
    pretrained: bool  # whether all of that has pretrained weights
    data: DataName  # what it is trained and judged on
    size: str | None = None  # of its input in pixels, None for its own

    @property
    def slug(self) -> str:
        """For a folder."""
        return f"{self.network.lower()}-{self.data}"


_NETWORKS = (
    ("EfficientNet-Lite0", "efficientnet-lite0", True),
    ("ResNet", "foldcam.benchmarks.studies.int8.networks:resnet", False),
    ("ViT", "foldcam.benchmarks.studies.int8.networks:vit", False),
)
SUBJECTS = tuple(
    Subject(name, spec, pretrained, data, "256" if pretrained and data == "birds" else None)
    for data in ("birds", "houses")
    for name, spec, pretrained in _NETWORKS
)


@dataclass(frozen=True)
class Prepared:
    """A subject ready to be calibrated."""

    subject: Subject  # which
    model: Path  # the folded float model
    images: Path  # for `foldcam calibrate --images`


def prepare(subject: Subject, root: Path, folder: Path, progress: Progress) -> Prepared:
    """Train and export, or take what an earlier call left in the folder."""
    model, weights = folder / "model.onnx", folder / "net.safetensors"
    if subject.data == "birds":
        images = root / "CUB_200_2011"
        samples = load_dataset(images, "train").samples
    else:
        images = folder / "houses.csv"
        samples = _houses(root / "houses", images)
    if not model.is_file():
        if not weights.is_file():
            _train(subject, samples, weights, progress)
        continuous = subject.data == "houses"
        built_in = subject.spec == "efficientnet-lite0"
        loaded = load_model(str(weights)) if built_in else load_model(subject.spec, weights)
        export_model(
            loaded,
            Dataset(images.name, "train", samples),
            model,
            parse_kernel(OBJECTIVE, "log") if continuous else parse_objective("all-triplets"),
            progress=lambda stage, done, of: progress(f"{subject.slug}: {stage}", done, of),
        )
    return Prepared(subject, model, images)


def _train(
    subject: Subject, samples: tuple[Sample, ...], weights: Path, progress: Progress
) -> None:
    base = load_model(subject.spec)
    options = _BIRDS if subject.data == "birds" else TRAINING
    if subject.data == "houses":
        samples = tuple(replace(s, value=math.log(s.value or 1.0)) for s in samples)
    if not subject.pretrained:
        options = replace(options, **(_BODY_BIRDS if subject.data == "birds" else _BODY_HOUSES))
        settle(base.module, samples)
    train(
        base,
        samples,
        weights,
        options,
        preprocessing=with_overrides(base.preprocessing, size=subject.size),
        progress=lambda stage, done, of: progress(f"{subject.slug}: {stage}", done, of),
    )


def _houses(root: Path, path: Path) -> tuple[Sample, ...]:
    """The training samples; all of them go into a CSV with their split."""
    houses = load_houses(root)
    training, test = split_houses(houses.houses, 0)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("path", "label", "split"))
    for split, part in (("train", training), ("test", test)):
        for house in part:
            sample = house.sample(_KIND)
            writer.writerow((sample.path.resolve(), sample.label, split))
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return tuple(house.sample(_KIND) for house in training)
