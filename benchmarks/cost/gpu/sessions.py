"""ONNX Runtime sessions with their memory bound once, on the GPU or the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from foldcam.runtime.system.errors import FoldcamError

Device = Literal["cuda", "cpu"]
_CUDA = "CUDAExecutionProvider"
Floats = npt.NDArray[np.float32]


def check_cuda() -> None:
    """Whether this onnxruntime was built with CUDA."""
    if _CUDA not in onnxruntime.get_available_providers():
        raise FoldcamError(
            "ONNX Runtime has no CUDA here: pip install 'foldcam[gpu]' on a machine with an "
            "NVIDIA driver, or measure with --device cpu."
        )


class BoundSession:
    """One graph at one batch size: input and outputs stay on the device.

    Args:
        device: `cuda` or `cpu`.
        images: `float32 [N, 3, H, W]`, given once.
        cuda_graph: whether runs are captured and replayed.
    """

    def __init__(self, path: Path, device: Device, images: Floats, cuda_graph: bool) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            check_cuda()
            # TensorFloat-32 would make fp32 another precision.
            wanted = {"enable_cuda_graph": str(int(cuda_graph)), "use_tf32": "0"}
            providers.insert(0, (_CUDA, wanted))
        else:
            options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        if device == "cuda" and _CUDA not in self._session.get_providers():
            raise FoldcamError(
                "CUDA is in this onnxruntime but could not be started (driver, CUDA or cuDNN): "
                "see `runtime doctor`, or measure with --device cpu."
            )
        self._binding = self._session.io_binding()
        (given,) = self._session.get_inputs()
        self._image = onnxruntime.OrtValue.ortvalue_from_numpy(images, device, 0)
        self._binding.bind_ortvalue_input(given.name, self._image)
        self._names = [value.name for value in self._session.get_outputs()]
        # The first run says how large the outputs are; from then on they stay where they are.
        for name in self._names:
            self._binding.bind_output(name, device)
        if not cuda_graph:
            self._session.run_with_iobinding(self._binding)
        self._fix_outputs(path, device, images)

    def _fix_outputs(self, path: Path, device: Device, images: Floats) -> None:
        probe = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.expected: dict[str, npt.NDArray[Any]] = dict(
            zip(self._names, probe.run(None, {probe.get_inputs()[0].name: images}), strict=True)
        )
        """What the CPU returns for the same images, by name."""
        self._outputs = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(value), device, 0)
            for name, value in self.expected.items()
        }
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self) -> None:
        """One forward pass; returns when the device has finished."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """What the last run returned, by name."""
        return {name: value.numpy().copy() for name, value in self._outputs.items()}
