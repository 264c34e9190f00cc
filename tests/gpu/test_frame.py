"""The network's input that a GPU makes of whole frames is the host's within one grey level.

pytest -m gpu
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from foldcam.export.grafting.frame import frame_graph
from foldcam.export.grafting.input import PLANES

pytestmark = pytest.mark.gpu

PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


@pytest.mark.parametrize("frame", [(1280, 720), (640, 480), (10, 90)])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_gpu_makes_the_hosts_input(fold, hand_built, provider, frame):
    onnxruntime = pytest.importorskip("onnxruntime")
    if provider not in onnxruntime.get_available_providers():
        pytest.skip(f"needs an onnxruntime with {provider}")
    graph = frame_graph(onnx.load(fold(input_type="uint8", frame=frame)))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=[provider])
    shape = (2, frame[1], frame[0], 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (planes,) = session.run([PLANES], {"image": frames})
    recipe = hand_built.Preprocessing(hand_built.WIDTH, hand_built.HEIGHT)
    expected = np.stack([recipe.resized(each)[0] for each in frames]).astype(np.float64)
    assert np.abs(planes.transpose(0, 2, 3, 1) - expected).max() <= 1
