"""A folded model's answers beside what they must be: figures per image, and a verdict."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank
from foldcam.export.verification.compared import Answers
from foldcam.export.verification.formulas import Expected
from foldcam.export.verification.pair_report import Limits, PairReport, Precision, failures_of
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.measurement.comparison.figures import (
    agreement,
    cosines,
    map_correlations,
    same_rows,
)

Floats = npt.NDArray[np.float32]

# A map whose greatest contribution is a billionth of a cosine says nothing.
_TINY_MAP = 1e-9


@dataclass(frozen=True, eq=False)
class ImagePair:
    """One image with both heatmaps, for looking at.

    Attributes:
        name: the image's name.
        image: `uint8 [height, width, 3]` RGB, at the network's input size.
        expected, got: heatmaps `float32 [c, h', w']`; c is 2 for a continuous outcome.
        cosine: between the embeddings.
        difference: greatest absolute difference of a pixel.
        labels: the labels of the nearest rows, the reference's and the model's; empty for
            values.
    """

    name: str
    image: Image
    expected: Floats
    got: Floats
    cosine: float
    difference: float
    labels: tuple[str, str]

    @property
    def severity(self) -> float:
        """How bad it is; what is not finite is worst."""
        return max(
            np.inf if np.isnan(value) else value for value in (self.difference, 1 - self.cosine)
        )


class Comparison:
    """Gathers figures over batches; of the images themselves only the worst are kept.

    Args:
        bank: the reference's.
        contract: the model's.
        keep_worst: images to keep.
    """

    def __init__(self, bank: Bank, contract: Contract, keep_worst: int) -> None:
        self._bank = bank
        self._labels = np.repeat(np.arange(len(bank.labels)), [run.count for run in bank.labels])
        self._contract = contract
        self._keep = keep_worst
        self._number = itertools.count()
        self._worst: list[tuple[float, int, ImagePair]] = []
        self._found: defaultdict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        self._first: tuple[bytes, bytes] | None = None
        self._images_vary = self._heatmaps_vary = False
        self._rows_exist = True
        self._not_finite: list[str] = []

    def add(
        self, answers: Answers, expected: Expected, names: Sequence[str], images: Sequence[Image]
    ) -> None:
        """Take a batch in.

        Args:
            answers: the model's.
            expected: the reference's.
            names: the images' names.
            images: each `uint8 [height, width, 3]` RGB at the network's input size.
        """
        found: dict[str, npt.NDArray[Any]] = {}
        arrays: list[npt.NDArray[Any]] = [answers.embedding, answers.heatmap, answers.similarity]
        if answers.estimate is not None and expected.estimate is not None:
            arrays.append(answers.estimate)
            found["estimate"] = np.abs(answers.estimate - expected.estimate)
        finite = np.all([np.isfinite(a).reshape(len(a), -1).all(axis=1) for a in arrays], axis=0)
        self._not_finite += [name for name, whole in zip(names, finite, strict=True) if not whole]
        rows = np.clip(answers.rows, 0, self._bank.rows - 1)
        self._rows_exist = self._rows_exist and bool((rows == answers.rows).all())
        wanted = expected.rows[:, : rows.shape[1]]
        scores = np.take_along_axis(expected.similarities, rows, 1)
        best = np.take_along_axis(expected.similarities, wanted, 1)
        # Logits have no scale of their own, as cosines and probabilities have.
        unit = np.maximum(np.abs(expected.similarities).max(axis=1), 1.0)
        found["offset"] = np.abs(answers.similarity - scores).max(axis=1) / unit
        found["tie"] = np.abs(scores - best).max(axis=1) / unit
        nearest = None
        if len(self._labels):
            nearest = self._labels[np.stack([wanted[:, 0], rows[:, 0]], axis=1)]
            found["label"] = nearest[:, 0] == nearest[:, 1]
        # What is reported of the rows that are transferred.
        used, index = self._contract.transfer, self._bank.grad_index
        found["same"] = same_rows(answers.rows[:, :used], wanted[:, :used])
        # Rows that share their grad-weights must give the same heatmap.
        compared = same_rows(index[rows[:, :used]], index[wanted[:, :used]])
        found["cosine"] = cosines(answers.embedding, expected.embedding)
        difference = np.abs(answers.heatmap - expected.heatmap).max(axis=(1, 2, 3))
        difference = difference.astype(np.float64)
        correlation, blank = map_correlations(answers.heatmap, expected.heatmap)
        found["difference"], found["correlation"] = difference[compared], correlation[compared]
        found["blank"] = blank[compared]
        if answers.contribution is not None and expected.contribution is not None:
            off = _share_off(answers.contribution, expected.contribution, expected.contribution)
            found["contribution"] = off[compared]
            if answers.contrast is not None and expected.contrast is not None:
                # Where rounding chose another runner-up, another question is answered.
                same = compared & (answers.runner_up == expected.runner_up)
                off = _share_off(answers.contrast, expected.contrast, expected.contribution)
                found["contrast"] = off[same]
        for name, values in found.items():
            self._found[name].append(values)
        for place, (name, image) in enumerate(zip(names, images, strict=True)):
            labels = ("", "")
            if nearest is not None:
                labels = tuple(self._bank.labels[number].name for number in nearest[place])
            got = answers.heatmap[place]
            self._note_whether_they_vary(image, got)
            self._keep_if_worst(
                ImagePair(
                    name,
                    image,
                    expected.heatmap[place],
                    got,
                    float(found["cosine"][place]),
                    float(difference[place]),
                    labels,
                )
            )

    def worst(self) -> list[ImagePair]:
        """The kept images, worst first."""
        return [pair for _, _, pair in sorted(self._worst, key=lambda item: -item[0])]

    def report(
        self,
        limits: Limits,
        precision: Precision,
        *,
        name: str,
        library: str,
        bank: str,
        bank_intact: bool | None,
    ) -> PairReport:
        """Figures and verdict over everything that was added, at least one image."""
        found = {key: np.concatenate(parts) for key, parts in self._found.items()}
        differences = found["difference"] if len(found["difference"]) else np.array([np.nan])
        report = PairReport(
            **vars(agreement(found["cosine"], found["correlation"], found["blank"])),
            name=name,
            library=library,
            precision=precision,
            bank=bank,
            images=len(found["cosine"]),
            same_neighbor=float(found["same"].mean()),
            label_agreement=float(found["label"].mean()) if "label" in found else None,
            neighbor_similarity_difference_worst=float(found["tie"].max()),
            similarity_difference_worst=float(found["offset"].max()),
            heatmap_difference_mean=float(differences.mean()),
            heatmap_difference_worst=float(differences.max()),
            # The same image twice may have the same heatmap twice.
            heatmaps_vary=self._heatmaps_vary or not self._images_vary,
            finite=not self._not_finite,
            not_finite=tuple(self._not_finite),
            rows_exist=self._rows_exist,
            bank_intact=bank_intact,
            estimate_difference_worst=float(found["estimate"].max())
            if "estimate" in found
            else None,
            contribution_difference_worst=float(found["contribution"].max())
            if len(found.get("contribution", ()))
            else None,
            contrast_difference_worst=float(found["contrast"].max())
            if len(found.get("contrast", ()))
            else None,
            worst_image=self.worst()[0].name if self._worst else "",
            limits=limits,
        )
        return PairReport(**{**vars(report), "failures": tuple(failures_of(report))})

    def _note_whether_they_vary(self, image: Image, heatmap: Floats) -> None:
        pair = image.tobytes(), heatmap.tobytes()
        self._first = self._first or pair
        self._images_vary = self._images_vary or pair[0] != self._first[0]
        self._heatmaps_vary = self._heatmaps_vary or pair[1] != self._first[1]

    def _keep_if_worst(self, pair: ImagePair) -> None:
        # The number decides between equals, so that images are never compared.
        item = (pair.severity, -next(self._number), pair)
        if len(self._worst) < self._keep:
            heapq.heappush(self._worst, item)
        elif self._keep:
            heapq.heappushpop(self._worst, item)


def _share_off(found: Floats, expected: Floats, unit: Floats) -> npt.NDArray[np.float64]:
    """The greatest difference in each map, as a share of the greatest magnitude in another."""
    off = np.abs(found - expected).max(axis=(1, 2, 3))
    size = np.abs(unit).max(axis=(1, 2, 3))
    return np.asarray(off / np.maximum(size, _TINY_MAP), np.float64)
