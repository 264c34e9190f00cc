"""What of a network stays float32 in fp16, by what training images measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from foldcam.export.banks.kept_pictures import KeptPictures
from foldcam.export.datasets import Sample
from foldcam.export.onnx_graphs.device import Device
from foldcam.export.onnx_graphs.precision import is_float16
from foldcam.export.onnx_graphs.ranges import beyond_float16
from foldcam.runtime.contract.schema import Precision
from foldcam.runtime.images.preprocess import Preprocessing


def wide_values(
    model: onnx.ModelProto,
    precision: Precision,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    kept: KeptPictures,
    device: Device,
) -> tuple[frozenset[str], list[str]]:
    """Values that float16 might not hold, and one sentence where there are any.

    Args:
        model: the network, `image` -> `feature_map`, `embedding`, float32.
        precision: of the folded model; with fp32 there is nothing to measure.
    """
    if precision == "fp32" or is_float16(model):
        return frozenset(), []
    held = [kept.held(sample) for sample in samples]
    pictures = [picture.resized for picture in held if picture is not None]
    if not pictures:
        return frozenset(), [
            "No picture was at hand to measure whether a value leaves float16's range: compare the "
            "file with foldcam verify."
        ]
    wide = beyond_float16(model, preprocessing.normalized(np.stack(pictures)), device)
    if not wide:
        return wide, []
    return wide, [
        f"{len(wide)} values of the network come near float16's greatest number on "
        f"{len(pictures)} training images that were tried, or leave its range: what makes and "
        "reads them stays float32."
    ]
