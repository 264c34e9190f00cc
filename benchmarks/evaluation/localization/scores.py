"""Every metric of one method, each a statistic over images that can be bootstrapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap_of, paired_bootstrap_of
from foldcam.benchmarks.evaluation.localization.boxes import FrozenLevels, box_accuracy
from foldcam.benchmarks.evaluation.localization.metrics import heat_in_box, pointing
from foldcam.benchmarks.evaluation.localization.perturbation import CurvePool, PerturbationCurves
from foldcam.benchmarks.evaluation.localization.pixels import pixel_average_precision
from foldcam.benchmarks.evaluation.localization.subjects import Subjects

Floats = npt.NDArray[np.float32]
Statistic = Callable[[npt.NDArray[np.intp]], float]


@dataclass
class Scores:
    """Metrics of one method over the same `count` images.

    Attributes:
        count: number of images.
        statistics: metric -> its value over given images (with repetition).
    """

    count: int
    statistics: dict[str, Statistic] = field(default_factory=dict)

    def add_values(self, name: str, values: npt.ArrayLike) -> None:
        """A metric that is the mean of one value per image."""
        array = np.asarray(values, np.float64)
        self.statistics[name] = lambda drawn: float(array[drawn].mean())

    def add_boxes(
        self, heatmaps: Floats, subjects: Subjects, size: tuple[int, int], frozen: FrozenLevels
    ) -> None:
        """MaxBoxAcc, MaxBoxAccV2, both also at frozen thresholds, pixel AP, pointing, share.

        Args:
            heatmaps: `float32 [N, h, w]`.
            subjects: with their boxes.
            size: `(height, width)` of the network's input.
            frozen: thresholds chosen on other images.
        """
        accuracy = box_accuracy(heatmaps, subjects.boxes, size)
        precision = pixel_average_precision(heatmaps, subjects.boxes, size)
        pairs = list(zip(heatmaps, subjects.boxes, strict=True))
        self.statistics["pixel_ap"] = precision.pooled
        self.statistics["max_box_acc"] = accuracy.max_box_acc
        self.statistics["max_box_acc_v2"] = accuracy.max_box_acc_v2
        self.statistics["max_box_acc_frozen"] = lambda drawn: accuracy.box_acc_at(frozen, drawn)
        self.statistics["max_box_acc_v2_frozen"] = lambda d: accuracy.box_acc_v2_at(frozen, d)
        self.add_values("pointing", [pointing(heat, box, size) for heat, box in pairs])
        self.add_values("heat_in_box", [heat_in_box(heat, box, size) for heat, box in pairs])

    def add_curves(self, curves: list[PerturbationCurves]) -> None:
        """Insertion and deletion areas, pooled over images."""
        pool = CurvePool(curves)
        self.statistics["insertion"] = lambda drawn: pool.areas(drawn)[0]
        self.statistics["deletion"] = lambda drawn: pool.areas(drawn)[1]

    def defined(self) -> list[str]:
        """Metrics that have a value on these images.

        Insertion and deletion have none where blurring costs the network nothing.
        """
        everything = np.arange(self.count, dtype=np.intp)
        return [
            name
            for name, statistic in self.statistics.items()
            if np.isfinite(statistic(everything))
        ]

    def intervals(self, draws: int) -> dict[str, Interval]:
        """Each defined metric with its bootstrap interval."""
        return {
            name: bootstrap_of(self.statistics[name], self.count, draws) for name in self.defined()
        }


def differences(ours: Scores, theirs: Mapping[str, Scores], draws: int) -> dict[
    str, dict[str, Interval]
]:  # fmt: skip
    """Ours minus each other method, on the same images, with paired intervals."""
    return {
        name: {
            metric: paired_bootstrap_of(
                ours.statistics[metric], other.statistics[metric], ours.count, draws
            )
            for metric in ours.defined()
        }
        for name, other in theirs.items()
    }
