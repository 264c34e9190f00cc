"""What a GPU answers is what ONNX Runtime answers on the CPU, output by output.

pytest -m gpu
"""

from __future__ import annotations

from contextlib import closing
from importlib.util import find_spec

import numpy as np
import pytest

from foldcam.runtime.backends import open_backend
from foldcam.runtime.backends.cuda import find_cuda
from foldcam.runtime.engine.builder import build_engine
from foldcam.runtime.engine.device import find_gpu
from foldcam.runtime.engine.flavours import find_flavour, installed_versions
from foldcam.runtime.engine.options import BuildOptions, Profile
from foldcam.runtime.measurement.comparison.self_test import compare, sample_images

pytestmark = pytest.mark.gpu

VARIANTS = {
    "one row": {},
    "neighbors": {"neighbors": 5, "transfer": 3},
    "large bank": {"rows": 10_000, "neighbors": 5},
    "input size": {"heatmap_size": "input"},
    "uint8": {"input_type": "uint8"},
    "whole frames": {"input_type": "uint8", "frame": (640, 480)},
    "continuous": {"transform": "log"},
}
WAYS = ("tensorrt", "cuda", "cuda graph", "onnxruntime tensorrt")


def need_tensorrt():
    if not installed_versions():
        pytest.skip("needs TensorRT")
    if find_spec("cuda") is None and find_spec("pycuda") is None:
        pytest.skip("needs cuda-python or pycuda")


def opened(way, model, tmp_path, monkeypatch):
    """The backend for one way of running, or a skip that says what is missing."""
    if way == "tensorrt":
        need_tensorrt()
        engine = tmp_path / "model.engine"
        options = BuildOptions(profiles=(Profile(1, 1, 4),))
        built = build_engine(model, engine, options, find_flavour("auto"))
        gpu = find_gpu()
        if not built.manifest.target.serves(gpu.compute_capability):
            pytest.skip(f"{built.manifest.title} does not serve {gpu.name}")
        return open_backend(engine)
    onnxruntime = pytest.importorskip("onnxruntime")
    provider = "tensorrt" if way == "onnxruntime tensorrt" else "cuda"
    name = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider"}[provider]
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"needs an onnxruntime with {name}")
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_backend(model, provider, cuda_graph=way == "cuda graph")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gpu_answers_as_the_cpu(fold, tmp_path, monkeypatch, variant, way):
    model = fold(**VARIANTS[variant])
    with (
        closing(open_backend(model, "cpu")) as reference,
        closing(opened(way, model, tmp_path, monkeypatch)) as tested,
    ):
        found = compare(reference, tested, "fp32", batches=(1, 1, 1, 3, 3, 1, 9))
    assert all(each.good for each in found), found


@pytest.mark.parametrize("way", WAYS)
def test_batch_equals_single_images(fold, tmp_path, monkeypatch, way):
    model = fold(neighbors=3)
    with closing(opened(way, model, tmp_path, monkeypatch)) as backend:
        images = sample_images(backend.contract, 6, 0)
        together = backend.run(images)
        apart = [backend.run(images[index : index + 1]) for index in range(6)]
    for name, value in together.items():
        single = np.concatenate([outputs[name] for outputs in apart])
        np.testing.assert_allclose(value, single, atol=5e-3, err_msg=name)


def test_two_engines_run_side_by_side(fold, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    model = fold()
    with (
        closing(open_backend(model, "cpu")) as reference,
        closing(opened("tensorrt", model, tmp_path / "a", monkeypatch)) as first,
        closing(opened("tensorrt", model, tmp_path / "b", monkeypatch)) as second,
    ):
        for _ in range(2):
            for backend in (first, second):
                assert all(each.good for each in compare(reference, backend, "fp32"))


def test_closing_gives_the_memory_back(fold, tmp_path, monkeypatch):
    need_tensorrt()
    model = fold(rows=10_000)
    cuda = find_cuda()
    free = []
    for _ in range(6):
        backend = opened("tensorrt", model, tmp_path, monkeypatch)
        backend.run(sample_images(backend.contract, 1, 0))
        backend.close()
        with cuda.current():
            free.append(cuda.device().free_bytes)
    # What the libraries keep for themselves, they take in the first rounds.
    assert free[-1] >= free[2] - (1 << 20)


def test_cuda_library_knows_the_gpu():
    need_tensorrt()
    cuda = find_cuda()
    with cuda.current():
        device = cuda.device()
    assert device.name
    assert device.compute_capability >= (5, 0)
    assert 0 < device.free_bytes <= device.total_bytes
