"""A label that is a number."""

from __future__ import annotations

import math

from foldcam.runtime.system.errors import FoldcamError

_LARGEST = 3.4e38


def value_of(label: str, where: str) -> float:
    """The continuous outcome that a label gives."""
    try:
        value = float(label) if "_" not in label else math.nan
    except ValueError:
        value = math.nan
    # Beyond this a bank's float32 is infinite.
    if not abs(value) < _LARGEST:
        raise FoldcamError(
            f"{where}: the label {label[:40]!r} is not a finite number, and a continuous outcome "
            "needs one."
        )
    return value
