"""The network's input that a graph makes of whole frames, beside the host's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.export.grafting.frame import frame_graph
from foldcam.export.grafting.input import PLANES
from foldcam.runtime.contract.schema import IMAGE, Contract

MOST_LEVELS = 1
"""Grey levels of 255 by which a pixel may differ: both round, and not always to the same side."""


class FrameInput:
    """The first part of a model of whole frames, run alone."""

    def __init__(self, model: onnx.ModelProto, contract: Contract) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session: Any = onnxruntime.InferenceSession(
            frame_graph(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._recipe = contract.preprocessing
        self.difference = 0
        """The greatest difference of a pixel from the host's so far, in grey levels of 255."""

    def __call__(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """What the graph makes of frames.

        Args:
            frames: `uint8 [n, height, width, 3]` RGB of the frame's size.

        Returns:
            `uint8 [n, H, W, 3]` RGB of the network's size.
        """
        (planes,) = self._session.run([PLANES], {IMAGE: frames})
        made = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        for frame, found in zip(frames, made, strict=True):
            apart = np.abs(found - self._recipe.resized(frame)[0]).max()
            self.difference = max(self.difference, int(np.ceil(apart)))
        return np.asarray(np.clip(np.rint(made), 0, 255), np.uint8)
