"""The whole export of a classifier as one call: MODEL + class names -> folded model. No images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from foldcam.export.exporting.exporter import normalization_notes, refuse_file
from foldcam.export.exporting.trials import coarse_notes
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.fold_classifier import fold_classifier
from foldcam.export.grafting.frame import frame_notes
from foldcam.export.grafting.probes import probed
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.classifier import classifier_network
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.feature_map import describe
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract, Origin
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path
from foldcam.runtime.system.strict_json import parse_json


@dataclass(frozen=True)
class ClassifierReport:
    """What the export of a classifier did.

    Attributes:
        path: the folded model.
        contract: its contract.
        notes: what the user should know, one sentence each.
    """

    path: Path
    contract: Contract
    notes: list[str] = field(default_factory=list)


def export_classifier(
    loaded: LoadedModel,
    out: Path | str,
    classes: Path | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    layer: str | None = None,
    options: FoldOptions | None = None,
    opset: int = 18,
) -> ClassifierReport:
    """Export a classifier and fold its own last layers; needs no images.

    Args:
        loaded: the classifier, image -> scores `[N, C]`.
        out: the folded model's file, replaced only when everything succeeded.
        classes: the names of its classes, see `read_class_names`; None numbers them.
        preprocessing: overrides the network's own.
        layer: the feature map's name, or None to find it.
        options: of which `neighbors`, `heatmap_size`, `input_type`, `frame`, `precision` and
            `contrast` count.
        opset: ONNX operator set.

    Raises:
        FoldcamError: anything about network, names or output that cannot be used.
    """
    out = Path(out)
    refuse_file(out, opset)
    preprocessing = preprocessing or loaded.preprocessing
    size = (preprocessing.height, preprocessing.width)
    with atomic_path(out) as temporary:
        classifier = classifier_network(loaded, layer, size)
        network = classifier.network
        names = class_names(classes, network.embedding_size)
        model = classifier.to_onnx(opset)
        origin = Origin(
            network=loaded.name,
            weights=loaded.weights,
            network_sha256=network.sha256(),
            data="" if classes is None else classes.name,
            split="",
            data_sha256="",
        )

        def folding(chosen: FoldOptions) -> onnx.ModelProto:
            return fold_classifier(
                model,
                names,
                preprocessing=preprocessing,
                layer=classifier.layer,
                origin=origin,
                versions=tool_versions(),
                options=chosen,
            )

        onnx.save(probed(folding, options or FoldOptions(), model), temporary)
    notes = [
        *normalization_notes(loaded, preprocessing, model.graph),
        *coarse_notes(loaded, network, exact=True),
        *network.notes,
    ]
    if network.pooled:
        notes.append(
            f"Several feature maps lead to the scores ({describe(network.pooled)}): "
            f"{classifier.layer}, which all of them come from, was taken; --layer chooses another."
        )
    if classes is None:
        notes.append(
            f"No --images were given, so that the network was taken as a classifier, and no "
            f"--classes, so that its {len(names)} classes are named by their numbers."
        )
    contract = read_contract(out)
    return ClassifierReport(out, contract, [*notes, *frame_notes(contract)])


_MOST_BYTES = 64 << 20


def read_class_names(path: Path) -> list[str]:
    """The names in the order of their classes.

    Args:
        path: a text file with one name per line; or JSON, as a list of names, or with names by
            number, `{"0": "tench"}`, or `{"0": ["n01440764", "tench"]}` as ImageNet's index has
            them, of which the last is taken.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise FoldcamError(f"--classes {path}: the file is larger than {_MOST_BYTES >> 20} MB.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FoldcamError(f"--classes {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise FoldcamError(f"--classes {path}: it is not UTF-8 text.") from error
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
        names = _from_json(text, path)
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    for number, name in enumerate(names):
        if not name:
            raise FoldcamError(f"--classes {path}: class {number} has no name.")
    if not names:
        raise FoldcamError(f"--classes {path}: the file names no class.")
    return names


def class_names(path: Path | None, classes: int) -> list[str]:
    """A name for each class: those of a file, or their numbers.

    Args:
        path: the file, or None.
    """
    if path is None:
        return [str(number) for number in range(classes)]
    names = read_class_names(path)
    if len(names) != classes:
        raise FoldcamError(
            f"--classes {path} names {len(names)} classes, and the network has {classes} scores: "
            "give one name per score, in their order."
        )
    return names


def _from_json(text: str, path: Path) -> list[str]:
    try:
        found: Any = parse_json(text)
    except ValueError as error:
        raise FoldcamError(f"--classes {path}: it is not JSON ({error}).") from error
    if isinstance(found, Mapping):
        numbers = [str(number) for number in range(len(found))]
        missing = next((number for number in numbers if number not in found), None)
        if missing is not None:
            raise FoldcamError(
                f"--classes {path}: it has {len(found)} entries and none for class {missing!r}."
            )
        found = [found[number] for number in numbers]
    names = [each[-1] if isinstance(each, list) and each else each for each in found]
    wrong = next((at for at, name in enumerate(names) if not isinstance(name, str)), None)
    if wrong is not None:
        raise FoldcamError(f"--classes {path}: the name of class {wrong} is not text.")
    return [name.strip() for name in names]
