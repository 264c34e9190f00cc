"""INT8 for a folded model, gated on what it costs.

Example:
    >>> from foldcam.calibrate import calibrate
    >>> outcome = calibrate(Path("model.onnx"), Path("photos/"))
    >>> outcome.passed, outcome.failures
    (True, ())

What is public is in `__all__`, and docs/api.md says what is promised of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foldcam.runtime.system.lazy import lazy_names

if TYPE_CHECKING:
    from foldcam.calibrate.calibrator import CalibrationOptions as CalibrationOptions
    from foldcam.calibrate.calibrator import Outcome as Outcome
    from foldcam.calibrate.calibrator import calibrate as calibrate
    from foldcam.calibrate.statistics import Store as Store

_HOMES = {
    "CalibrationOptions": "foldcam.calibrate.calibrator",
    "Outcome": "foldcam.calibrate.calibrator",
    "Store": "foldcam.calibrate.statistics",
    "calibrate": "foldcam.calibrate.calibrator",
}
__all__ = list(_HOMES)

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
