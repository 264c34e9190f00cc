"""INT8 for a folded model, gated on what it costs.

Example:
    >>> from calibrate import calibrate
    >>> outcome = calibrate(Path("model.onnx"), Path("photos/"))
    >>> outcome.passed, outcome.failures
    (True, ())

What is public is in `__all__`, and docs/api.md says what is promised of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.lazy import lazy_names

if TYPE_CHECKING:
    from calibrate.calibrator import calibrate as calibrate
    from calibrate.options import CalibrationOptions as CalibrationOptions
    from calibrate.outcome import Outcome as Outcome
    from calibrate.store import Store as Store

_HOMES = {
    "CalibrationOptions": "calibrate.options",
    "Outcome": "calibrate.outcome",
    "Store": "calibrate.store",
    "calibrate": "calibrate.calibrator",
}
__all__ = ["CalibrationOptions", "Outcome", "Store", "calibrate"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
