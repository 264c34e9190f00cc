"""What is asked: the bank of a folded model or of a network, and the images with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.explanation.data import Parts
from foldcam.export.banks.embedding_pass import embed
from foldcam.export.banks.unknown.choosing import label_folds
from foldcam.export.banks.unknown.images import answered, in_bank, label_notes, own_notes
from foldcam.export.banks.unknown.rows import Rows, numbered
from foldcam.export.datasets import Dataset, Sample
from foldcam.export.grafting.frame import frameless
from foldcam.export.grafting.in_graph import bank_of
from foldcam.export.models.spec import LoadedModel, load_model
from foldcam.export.models.training.trainer import (
    TrainingOptions,
    train,
    training_hash,
)
from foldcam.export.onnx_graphs.device import Device
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

BATCH = 16
LEFT_OUT = "labels left out"
GIVEN = "images"


@dataclass(frozen=True, eq=False)
class Setting:
    """One bank and the images that are asked of it."""

    rows: Rows  # the bank's
    units: npt.NDArray[np.floating]  # `[Q, D]`, of norm 1: all images of the study, in its order
    unknown: npt.NDArray[np.bool_]  # `bool [Q]`, which of them show a label that the bank has not
    asked: npt.NDArray[np.bool_]  # `bool [Q]`, which of them take part


@dataclass(frozen=True, eq=False)
class Asked:
    """Everything that is asked."""

    # one where unknown images are given, else one per group of labels left out
    settings: tuple[Setting, ...]
    labels: tuple[str, ...]  # of the Q images; images that were given as unknown have their own
    unknown_source: str  # `labels left out` or `images`
    groups: tuple[tuple[str, ...], ...] = ()  # the labels that each setting leaves out
    notes: tuple[str, ...] = ()  # what the reader of the figures should know, one sentence each
    # images that could not be read or have no answer, with the reason
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Retraining:
    """How a network is trained once per group of labels, without them."""

    options: TrainingOptions  # of the training
    folder: Path  # where the networks are kept; one that was trained so before is taken

    def path(
        self,
        number: int,
        loaded: LoadedModel,
        kept: Sequence[Sample],
        preprocessing: Preprocessing,
    ) -> Path:
        """A network's file, whose name depends on everything that it is trained from."""
        digest = training_hash(loaded, preprocessing, self.options, kept)
        return self.folder / f"net-without-{number}-{digest}.safetensors"


def of_folded(
    path: Path,
    images: Dataset,
    unknown: Dataset | None,
    device: Device,
    seed: int,
    progress: Progress | None,
) -> Asked:
    """A folded model and images that are not in its bank.

    Args:
        images: labelled images; those of labels that the bank has not are unknown.
        unknown: more unknown images. Where there are none at all, labels are left out.
    """
    contract = read_contract(path)
    if contract.outcome is not None:
        raise FoldcamError(
            f"{path} answers with an estimate of a continuous outcome: only a model of labels can "
            "meet an unknown one."
        )
    if contract.bank_input is not None:
        raise FoldcamError(
            f"{path} takes its bank as an input: give a model that was folded without --bank-input."
        )
    rows = Rows.of(bank_of(load_message(path), contract))
    with frameless(path) as file, FoldedModel.load(file, provider=device.provider) as model:
        parts = [answered(model, images, "images", progress)]
        if unknown is not None:
            parts.append(answered(model, unknown, "unknown images", progress))
    units = np.concatenate([part.units for part in parts])
    labels = tuple(label for part in parts for label in part.labels)
    known = np.isin(np.asarray(labels, object), np.asarray(rows.names, object))
    # What was given as unknown is, whatever its label says.
    known[len(parts[0].labels) :] = False
    own = known & in_bank(units, rows.units, contract)
    notes = label_notes(parts[1], rows.names) if unknown is not None else []
    notes += own_notes(own)
    skipped = tuple(item for part in parts for item in part.skipped)
    asked = Asked((), labels, GIVEN, (), tuple(notes), skipped)
    if not (known & ~own).any():
        raise FoldcamError(
            f"No image of {images.name} is new and has a label of the bank: give images of its "
            "labels that are not in it."
        )
    if not known.all():
        return replace(asked, settings=(Setting(rows, units, ~known, ~own),))
    return _leaving_out(asked, rows, units, ~own, seed)


def of_network(
    loaded: LoadedModel,
    parts: Parts,
    preprocessing: Preprocessing,
    unknown: Dataset | None,
    seed: int,
    retraining: Retraining | None = None,
    progress: Progress | None = None,
) -> Asked:
    """A network, images for its bank, and images to ask.

    Args:
        loaded: the network; what is trained, with `retraining`.
        unknown: images that are unknown; None leaves labels out of the bank.
        retraining: trains the network without the labels that are left out; None takes it as it is.
    """
    training, testing = parts.training.samples, parts.testing.samples
    skipped: list[tuple[str, str]] = []
    if retraining is None:
        rows = _rows(loaded, training, preprocessing, skipped, progress)
        units, labels = _embedded(loaded, testing, preprocessing, skipped, progress)
        if unknown is None:
            asked = Asked((), labels, GIVEN, (), parts.notes, tuple(skipped))
            return _leaving_out(asked, rows, units, np.ones(len(labels), np.bool_), seed)
        strangers, others = _embedded(loaded, unknown.samples, preprocessing, skipped, progress)
        strange = np.arange(len(labels) + len(others)) >= len(labels)
        everything = np.ones(len(strange), np.bool_)
        setting = Setting(rows, np.concatenate([units, strangers]), strange, everything)
        return Asked((setting,), (*labels, *others), GIVEN, (), parts.notes, tuple(skipped))
    if Path(loaded.name).suffix in (".pt2", ".safetensors"):
        raise FoldcamError(
            f"--retrain cannot begin with the file {loaded.name}: name a network, such as "
            "efficientnet-lite0 or package.module:factory."
        )
    names = tuple(sorted({sample.label for sample in training}))
    if len(names) < 3:
        raise FoldcamError(
            f"The training images have {len(names)} labels, and --retrain trains without one of "
            "them on two at least: give images of three."
        )
    groups = label_folds(np.arange(len(names)), seed)
    settings, labels = [], ()
    for number, group in enumerate(groups):
        left_out = {names[place] for place in group}
        kept = [sample for sample in training if sample.label not in left_out]
        path = retraining.path(number, loaded, kept, preprocessing)
        if not path.exists():
            train(loaded, kept, path, retraining.options, preprocessing=preprocessing,
                  progress=progress)  # fmt: skip
        network = load_model(loaded.name, path, device=loaded.device)
        rows = _rows(network, kept, network.preprocessing, skipped, progress)
        units, labels = _embedded(network, testing, network.preprocessing, skipped, progress)
        strange = np.isin(np.asarray(labels, object), list(left_out))
        settings.append(Setting(rows, units, strange, np.ones(len(labels), np.bool_)))
    return Asked(
        tuple(settings), labels, LEFT_OUT, _names(groups, names), parts.notes,
        tuple(dict.fromkeys(skipped)),
    )  # fmt: skip


def _leaving_out(
    asked: Asked, rows: Rows, units: npt.NDArray[np.floating], taken: npt.NDArray[np.bool_],
    seed: int,
) -> Asked:  # fmt: skip
    own = numbered(asked.labels, rows.names)
    groups = label_folds(own[taken], seed)
    if len(groups) < 2:
        raise FoldcamError(
            "The images that are not in the bank show one of its labels alone, so that none can "
            "be left out: give images of a second one, or unknown images with --unknown."
        )
    settings = tuple(
        Setting(rows.kept(~np.isin(rows.labels, group)), units, np.isin(own, group), taken)
        for group in groups
    )
    return replace(asked, settings=settings, unknown_source=LEFT_OUT,
                   groups=_names(groups, rows.names))  # fmt: skip


def _names(
    groups: Sequence[npt.NDArray[np.int64]], names: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(names[place] for place in group) for group in groups)


def _rows(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    skipped: list[tuple[str, str]],
    progress: Progress | None,
) -> Rows:
    units, labels = _embedded(loaded, samples, preprocessing, skipped, progress)
    names = tuple(sorted(set(labels)))
    return Rows(units, numbered(labels, names), names)


def _embedded(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    skipped: list[tuple[str, str]],
    progress: Progress | None,
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Unit embeddings and labels of the images that could be read."""
    network = loaded.network(size=(preprocessing.height, preprocessing.width), summands=False)
    say = progress or (lambda *_: None)
    done = embed(
        network, preprocessing, samples, batch_size=BATCH,
        progress=lambda so_far, total: say("embedding", so_far, total),
    )  # fmt: skip
    skipped += [(item.place, item.reason) for item in done.skipped]
    norms = np.linalg.norm(done.embeddings, axis=1, keepdims=True)
    labels = tuple(samples[place].label for place in done.positions)
    return done.embeddings / np.maximum(norms, 1e-12), labels
