"""What a calibration came to, for those who write, print or test it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from foldcam.calibrate.ladder import Rung
from foldcam.calibrate.quality import Gate
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.measurement.comparison.figures import (
    Answered,
    GateFigures,
    PerImage,
)
from foldcam.runtime.measurement.comparison.interleaved import Ratio


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a calibration came to.

    Attributes:
        model: the candidate that was taken, with its metadata; not to be shipped unless
            `passed`.
        contract: of `model`.
        report: everything that equal inputs repeat; its hash is in the contract.
        ladder: every candidate that was tried, with its figures on the images to choose by.
        chosen: the one that `model` is.
        figures: of `model`, on the images that judge.
        each: the same per image.
        answers: what it answered there.
        gate: those images and the float model's answers.
        speeds: of each rung of the ladder; empty where speed was not measured.
        failures: what is outside the limits, speed included.
    """

    model: onnx.ModelProto
    contract: Contract
    report: dict[str, Any]
    ladder: list[Rung]
    chosen: Rung
    figures: GateFigures
    each: PerImage
    answers: Answered
    gate: Gate
    speeds: list[Ratio]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it may be shipped."""
        return not self.failures

    @property
    def speed(self) -> Ratio | None:
        """Of `model`; None where it was not measured."""
        return self.speeds[self.ladder.index(self.chosen)] if self.speeds else None
