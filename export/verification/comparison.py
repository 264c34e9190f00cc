"""A folded model's answers beside what they must be: figures per image, and a verdict."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.export.bank import Bank
from foldcam.export.verification.compared import Answers
from foldcam.export.verification.formulas import Expected
from foldcam.export.verification.limits import Limits, Precision
from foldcam.export.verification.pair_report import PairReport, failures_of
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.preprocess import Image

Floats = npt.NDArray[np.float32]

# Maps that differ by less everywhere count as equal: where a map is nearly constant, the
# correlation is one of rounding errors.
_SAME_MAP = 1e-3


@dataclass(frozen=True, eq=False)
class ImagePair:
    """One image with both heatmaps, for looking at.

    Attributes:
        name: of the image.
        image: `uint8 [height, width, 3]` RGB, at the network's input size.
        expected, got: heatmaps `float32 [c, h', w']`; c is 2 for a continuous outcome.
        cosine: between the embeddings.
        difference: greatest absolute difference of a pixel.
        labels: of the nearest rows, the reference's and the model's; empty for values.
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
        self._labels = np.repeat(
            np.arange(len(bank.labels)), [run.count for run in bank.labels]
        ).astype(np.int64)
        self._contract = contract
        self._keep = keep_worst
        self._number = itertools.count()
        self._worst: list[tuple[float, int, ImagePair]] = []
        self._cosines: list[float] = []
        self._same: list[bool] = []
        self._agreements: list[bool] = []
        self._ties: list[float] = []
        self._offsets: list[float] = []
        self._correlations: list[float] = []
        self._differences: list[float] = []
        self._estimates: list[float] = []
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
            names: of the images.
            images: each `uint8 [height, width, 3]` RGB at the network's input size.
        """
        arrays: list[npt.NDArray[Any]] = [answers.embedding, answers.heatmap, answers.similarity]
        if answers.estimate is not None and expected.estimate is not None:
            arrays.append(answers.estimate)
            self._estimates.extend(np.abs(answers.estimate - expected.estimate).tolist())
        finite = np.all([np.isfinite(a).reshape(len(a), -1).all(axis=1) for a in arrays], axis=0)
        self._not_finite += [name for name, whole in zip(names, finite, strict=True) if not whole]
        for place, (name, image) in enumerate(zip(names, images, strict=True)):
            self._add_one(answers, expected, place, name, image)

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
        compared = len(self._differences)
        correlations = self._correlations if compared else [np.nan]
        differences = self._differences if compared else [np.nan]
        report = PairReport(
            name=name,
            library=library,
            precision=precision,
            bank=bank,
            images=len(self._cosines),
            embedding_cosine_mean=float(np.mean(self._cosines)),
            embedding_cosine_worst=float(np.min(self._cosines)),
            same_neighbor=float(np.mean(self._same)),
            label_agreement=float(np.mean(self._agreements)) if self._agreements else None,
            neighbor_similarity_difference_worst=float(np.max(self._ties)),
            similarity_difference_worst=float(np.max(self._offsets)),
            heatmaps_compared=compared,
            heatmap_correlation_mean=float(np.mean(correlations)),
            heatmap_correlation_p5=float(np.percentile(correlations, 5)),
            heatmap_correlation_worst=float(np.min(correlations)),
            heatmap_difference_mean=float(np.mean(differences)),
            heatmap_difference_worst=float(np.max(differences)),
            # The same image twice may have the same heatmap twice.
            heatmaps_vary=self._heatmaps_vary or not self._images_vary,
            finite=not self._not_finite,
            not_finite=tuple(self._not_finite),
            rows_exist=self._rows_exist,
            bank_intact=bank_intact,
            estimate_difference_worst=float(np.max(self._estimates)) if self._estimates else None,
            worst_image=self.worst()[0].name if self._worst else "",
            limits=limits,
        )
        return PairReport(**{**vars(report), "failures": tuple(failures_of(report))})

    def _add_one(
        self, answers: Answers, expected: Expected, place: int, name: str, image: Image
    ) -> None:
        ours, theirs = answers.rows[place], expected.rows[place]
        inside = np.clip(ours, 0, self._bank.rows - 1)
        self._rows_exist = self._rows_exist and bool((inside == ours).all())
        scores = expected.similarities[place]
        cosine = _cosine(answers.embedding[place], expected.embedding[place])
        self._cosines.append(cosine)
        self._offsets.append(float(np.abs(answers.similarity[place] - scores[inside]).max()))
        gaps = scores[inside] - scores[theirs[: len(inside)]]
        self._ties.append(float(np.abs(gaps).max()))
        labels = ("", "")
        if len(self._labels):
            nearest = self._labels[theirs[0]], self._labels[inside[0]]
            self._agreements.append(bool(nearest[0] == nearest[1]))
            labels = (self._bank.labels[nearest[0]].name, self._bank.labels[nearest[1]].name)
        # What is reported of the rows that are transferred, in whatever order.
        used = min(len(ours), self._contract.transfer)
        self._same.append(set(ours[:used].tolist()) == set(theirs[:used].tolist()))
        # Rows that share their grad-weights must give the same heatmap.
        index = self._bank.grad_index
        comparable = np.array_equal(np.sort(index[inside[:used]]), np.sort(index[theirs[:used]]))
        got, wanted = answers.heatmap[place], expected.heatmap[place]
        difference = float(np.abs(got - wanted).max())
        if comparable:
            self._differences.append(difference)
            self._correlations.append(_correlation(got, wanted, difference))
        seen = image.tobytes(), got.tobytes()
        self._first = self._first or seen
        self._images_vary = self._images_vary or seen[0] != self._first[0]
        self._heatmaps_vary = self._heatmaps_vary or seen[1] != self._first[1]
        self._keep_if_worst(
            ImagePair(name, image, wanted, got, cosine, difference, labels),
        )

    def _keep_if_worst(self, pair: ImagePair) -> None:
        # The number decides between equals, so that images are never compared.
        item = (pair.severity, -next(self._number), pair)
        if len(self._worst) < self._keep:
            heapq.heappush(self._worst, item)
        elif self._keep:
            heapq.heappushpop(self._worst, item)


def _cosine(a: Floats, b: Floats) -> float:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(a64) * np.linalg.norm(b64)
        if norms != 0:
            return float(a64 @ b64 / norms)
    return float(np.array_equal(a64, b64))


def _correlation(a: Floats, b: Floats, difference: float) -> float:
    """Pearson's over all pixels; NaN where a value is not finite."""
    if difference < _SAME_MAP:
        return 1.0
    with np.errstate(invalid="ignore"):
        a64, b64 = (x.astype(np.float64).ravel() - x.mean(dtype=np.float64) for x in (a, b))
        norms = np.linalg.norm(a64) * np.linalg.norm(b64)
        # A map without any shape has nothing in common with one that has some.
        return float(a64 @ b64 / norms) if norms != 0 else 0.0
