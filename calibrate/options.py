"""The options of a calibration."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from foldcam.calibrate.placement import Target
from foldcam.calibrate.thresholds import Method
from foldcam.runtime.contract.schema import Precision
from foldcam.runtime.measurement.comparison.verdict import GateLimits


@dataclass(frozen=True)
class CalibrationOptions:
    """What the user decides of a calibration.

    Attributes:
        count, choice_count, gate_count: images at most, to calibrate on, to choose by, and to
            judge by.
        seed: of their choice.
        method: of all thresholds; None chooses for each activation by measured damage.
        keep_float: `none`, `auto`, or names of layers.
        correct_biases: whether bias correction is tried.
        gptq: whether rounding weights by GPTQ is tried.
        target: whose form the model has; speed is measured for `cpu`.
        float_type: of the weighted layers that are not quantized and of what lies between them.
        limits: of the gate.
    """

    count: int = 128
    choice_count: int = 128
    gate_count: int = 256
    seed: int = 0
    method: Method | None = None
    keep_float: tuple[str, ...] = ("auto",)
    correct_biases: bool = True
    gptq: bool = True
    target: Target = "tensorrt"
    float_type: Precision = "fp32"
    limits: GateLimits = field(default_factory=GateLimits)

    def document(self) -> dict[str, Any]:
        """For the report."""
        return {
            **asdict(self),
            "method": self.method or "auto",
            "keep_float": list(self.keep_float),
            "limits": asdict(self.limits),
        }
