"""Choosing the rule for unknown images of a folded model, and writing it into the file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from foldcam.export.banks.unknown.choosing import (
    LeftOut,
    auroc,
    label_folds,
    leave_labels_out,
    share_accepted,
    threshold_for,
)
from foldcam.export.banks.unknown.images import (
    Answered,
    Progress,
    answered,
    in_bank,
    label_notes,
    own_notes,
)
from foldcam.export.banks.unknown.rows import DEVICE_SCORES, Doubles, Rows, numbered
from foldcam.export.datasets import Dataset
from foldcam.export.grafting.frame import frameless
from foldcam.export.grafting.in_graph import bank_of
from foldcam.export.grafting.known_score import with_rule
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import CONTRAST, Contract
from foldcam.runtime.contract.unknown import Score, UnknownRule
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path

MOST_LABELS = 4096
"""Labels up to which the score `whitened` is tried: it holds a mean of each in the graph."""


@dataclass(frozen=True)
class Candidate:
    """A score that was tried.

    Attributes:
        auroc: the probability that a known image has a higher one than an unknown image.
        rule: with it.
    """

    score: Score
    auroc: float | None
    rule: UnknownRule


@dataclass(frozen=True)
class ThresholdReport:
    """What was chosen.

    Attributes:
        path: the model that has the rule now.
        candidates: every score that was tried, the best first.
        notes: what the user should know, one sentence each.
        skipped: images that could not be read or have no answer, with the reason.
    """

    path: Path
    rule: UnknownRule
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": str(self.path),
            "rule": self.rule.document(),
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "notes": list(self.notes),
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
        }


def choose_threshold(
    path: Path,
    out: Path,
    images: Dataset | None = None,
    unknown: Dataset | None = None,
    *,
    accept: float = 0.95,
    score: Score | None = None,
    device: Device = CPU,
    progress: Progress | None = None,
) -> ThresholdReport:
    """Choose the rule for unknown images and write the model that has it.

    Args:
        path: a folded model of labels: float, float16 or quantized.
        images: labelled images that are not in the bank. Those of labels that the bank does not
            have count as unknown. None leaves rows of the bank out in their place.
        unknown: images that show none of the bank's labels; None leaves labels out of the bank.
        accept: share of known images to accept, in (0, 1).
        score: which score; None takes the one with the highest AUROC.
    """
    if not 0.0 < accept < 1.0:
        raise FoldcamError(f"--accept is {accept:g}: give a share between 0 and 1, such as 0.95.")
    if out.suffix != ".onnx":
        raise FoldcamError(f"--out {out}: a folded model is an .onnx file.")
    contract = read_contract(path)
    if contract.outcome is not None:
        raise FoldcamError(
            f"{path} answers with an estimate of a continuous outcome: only a model of labels can "
            "answer that an image is unknown."
        )
    if contract.bank_input is not None:
        raise FoldcamError(
            f"{path} takes its bank as an input, which may change, and a threshold is chosen for "
            "one bank: fold it with --no-bank-input, or run it with --unknown-below."
        )
    model = load_message(path)
    bank = bank_of(model, contract)
    rows = Rows.of(bank)
    known, strange = _read(path, images, unknown, device, progress)
    notes = [] if strange is None else label_notes(strange, rows.names)
    skipped = [item for part in (known, strange) if part is not None for item in part.skipped]
    if known is not None:
        known, apart = _held_out(known, rows, contract, notes)
        strange = apart if strange is None else strange
    else:
        notes.append(
            "Rows of the bank were left out in place of held-out images. A network that was "
            "trained on them knows them better than new images, of which far fewer will then be "
            "accepted (59 % in place of 95 % of the birds in docs/unknown.md): give held-out "
            "images with --images."
        )
    candidates = _candidates(contract, rows, known, strange, accept, score, notes)
    data = contract.origin.data if images is None else images.name
    chosen = replace(candidates[0].rule, data=data)
    with atomic_path(out) as temporary:
        onnx.save(with_rule(model, chosen, rows), temporary)
    return ThresholdReport(out, chosen, tuple(candidates), tuple(notes), tuple(skipped))


def _read(
    path: Path,
    images: Dataset | None,
    unknown: Dataset | None,
    device: Device,
    progress: Progress | None,
) -> tuple[Answered | None, Answered | None]:
    if images is None and unknown is None:
        return None, None
    with frameless(path) as file, FoldedModel.load(file, provider=device.provider) as model:
        return (
            None if images is None else answered(model, images, "known images", progress),
            None if unknown is None else answered(model, unknown, "unknown images", progress),
        )


def _held_out(
    images: Answered, rows: Rows, contract: Contract, notes: list[str]
) -> tuple[Answered, Answered | None]:
    """The images of labels that the bank has, without its own; and those of other labels."""
    labelled = np.isin(np.asarray(images.labels, object), np.asarray(rows.names, object))
    own = in_bank(images.units, rows.units, contract) & labelled
    if not (labelled & ~own).any():
        raise FoldcamError(
            "None of the labelled images is new and has a label of the bank, "
            + ("all of them being in it" if own.any() else f"such as {rows.names[0]!r}")
            + ": give images that are not in the bank, or leave --images out to use its own rows."
        )
    notes += own_notes(own)
    others = ~labelled
    if others.any():
        notes.append(f"{int(others.sum())} images have labels that the bank has not: unknown ones.")
    return images.kept(labelled & ~own), images.kept(others) if others.any() else None


def _candidates(
    contract: Contract,
    rows: Rows,
    known: Answered | None,
    unknown: Answered | None,
    accept: float,
    wanted: Score | None,
    notes: list[str],
) -> list[Candidate]:
    """Every possible score with its rule, the best first."""
    names = list(DEVICE_SCORES) if wanted is None else [wanted]
    has_contrast = CONTRAST in contract.optional_outputs
    if not has_contrast and wanted == "similarity_and_margin":
        raise FoldcamError(
            "The score similarity_and_margin needs the output runner_up_similarity: export the "
            "model again with --contrast, or choose another --score."
        )
    if wanted is None:
        names = [name for name in names if has_contrast or name != "similarity_and_margin"]
        names = [name for name in names if len(rows.names) <= MOST_LABELS or name != "whitened"]
    if known is None:
        images = LeftOut(rows)
    else:
        images = LeftOut(rows, known.units, numbered(known.labels, rows.names))
    if not len(images.labels):
        raise FoldcamError(
            "No label of the bank has two images, so that none can be left out: give held-out "
            "images with --images."
        )
    tried = [_tried(contract, rows, images, known, unknown, name, accept) for name in names]
    found = [candidate for candidate in tried if candidate is not None]
    if not found:
        raise FoldcamError(
            f"The bank's rows cannot give the score {wanted}: it needs at least two labels, and "
            "one of them with two images that differ. Choose --score similarity."
        )
    found.sort(key=lambda each: -(each.auroc or 0.0))
    if found[0].auroc is None:
        notes.append(
            "Nothing is known of what the rule accepts of unknown images: the bank has one label, "
            "so that none can be left out. Give some with --unknown."
        )
    elif unknown is None:
        notes.append(
            "What is said of unknown images was measured with labels left out of the bank; a "
            "network that was trained on them may tell them apart better than others."
        )
    return found


def _tried(
    contract: Contract,
    rows: Rows,
    images: LeftOut,
    known: Answered | None,
    unknown: Answered | None,
    name: Score,
    accept: float,
) -> Candidate | None:
    """One score's rule; None where the rows cannot give it."""
    score = DEVICE_SCORES[name]
    # What the device finds, where a search in lists may miss the nearest row.
    scores = _of_device(known, name) if known is not None else None
    scores = images.scores(score) if scores is None else scores
    if scores is None:
        return None
    threshold = threshold_for(scores, accept)
    rule = UnknownRule(
        score=name,
        threshold=threshold,
        bank_sha256=contract.bank.sha256,
        accept=accept,
        source="bank rows left out" if known is None else "held-out images",
        known_images=len(scores),
        known_accepted=share_accepted(scores, threshold),
    )
    if unknown is not None:
        strange = _of_device(unknown, name)
        strange = score(rows, unknown.units) if strange is None else strange
        assert strange is not None
        rule = replace(rule, unknown_source="images", unknown_images=len(strange),
                       unknown_accepted=share_accepted(strange, threshold))  # fmt: skip
        return Candidate(name, auroc(scores, strange), rule)
    folds = leave_labels_out(images, score, label_folds(images.labels))
    if not folds:
        return Candidate(name, None, rule)
    accepted = [fold.unknown >= fold.threshold(accept) for fold in folds]
    rule = replace(rule, unknown_source="labels left out", unknown_images=sum(map(len, accepted)),
                   unknown_accepted=float(np.concatenate(accepted).mean()))  # fmt: skip
    each = [auroc(fold.known, fold.unknown) for fold in folds]
    return Candidate(name, float(np.mean(each)), rule)


def _of_device(images: Answered, name: Score) -> Doubles | None:
    if name == "similarity":
        return images.similarities
    if name == "similarity_and_margin":
        assert images.runner_ups is not None
        return 2.0 * images.similarities - images.runner_ups
    return None
