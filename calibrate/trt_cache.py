"""The older road: TensorRT's calibration cache, for weakly typed builds (8.6, 10.x) and DLA.

The file is text: a line with version and calibrator, then `tensor: scale`, the scale being the
float32's bits in hexadecimal, most significant first, as TensorRT's entropy calibrator writes
them. It belongs to the model without Q and DQ.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from calibrate.qdq import Step
from runtime.errors import FoldcamError


def calibration_cache(steps: Mapping[str, Step], version: str) -> str:
    """The cache's text.

    Args:
        steps: of the model's activations, symmetric int8.
        version: of TensorRT, such as `8.6.2` or `10.3.0`: it refuses a cache of another.

    Raises:
        FoldcamError: not a version, or one without calibrators; a step is not int8.
    """
    match = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if match is None:
        raise FoldcamError(f"{version!r} is no version of TensorRT: give one such as 10.3.0.")
    major, minor, patch = (int(part or 0) for part in match.groups())
    if major >= 11:
        raise FoldcamError(
            f"TensorRT {version} has no calibration caches (11.0 removed them): use the Q/DQ model."
        )
    if any(step.unsigned for step in steps.values()):
        raise FoldcamError("A calibration cache needs --target tensorrt: its steps are int8.")
    # NV_TENSORRT_VERSION: four digits up to 9, then six.
    number = (
        major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch
    )
    lines = [f"TRT-{number}-EntropyCalibration2"]
    lines += [
        f"{name}: {struct.pack('>f', step.scale).hex()}" for name, step in sorted(steps.items())
    ]
    return "\n".join(lines) + "\n"
