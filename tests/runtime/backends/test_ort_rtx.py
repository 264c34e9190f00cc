"""`--provider rtx`: ONNX Runtime's plugin for TensorRT-RTX, pretended, and absent for real."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from foldcam.runtime.backends import open_backend, ort_providers
from foldcam.runtime.system.errors import FoldcamError

NAME = "NvTensorRTRTXExecutionProvider"
MODULE = "onnxruntime_ep_nv_tensorrt_rtx"


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(ort_providers, "_registered", set())


@pytest.fixture
def plugin(monkeypatch):
    """The plugin's package, whose library is not there."""
    module = ModuleType(MODULE)
    module.get_ep_name = lambda: NAME
    module.get_library_path = lambda: "/nowhere/libonnxruntime_providers_nv_tensorrt_rtx.so"
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


class Options:
    """Session options that remember the plugin's devices."""

    def __init__(self):
        self.real = onnxruntime.SessionOptions()
        self.devices = self.settings = None

    def __setattr__(self, name, value):
        if "real" in self.__dict__ and hasattr(self.real, name):
            setattr(self.real, name, value)
        else:
            self.__dict__[name] = value

    def add_session_config_entry(self, key, value):
        self.real.add_session_config_entry(key, value)

    def add_provider_for_devices(self, devices, settings):
        self.devices, self.settings = devices, settings


class Pretended:
    """onnxruntime with the plugin: the real one computes."""

    __version__ = "1.24.0"
    SessionOptions = Options

    def __init__(self):
        self.registered, self.sessions, self.batches = [], [], []
        gpu = SimpleNamespace(ep_name=NAME)
        self.devices = [SimpleNamespace(ep_name="CPUExecutionProvider"), gpu, gpu]
        self.starts = True

    def register_execution_provider_library(self, name, path):
        self.registered.append((name, path))

    def get_ep_devices(self):
        return self.devices

    def get_available_providers(self):
        return ["CPUExecutionProvider"]

    def InferenceSession(self, path, options):  # noqa: N802
        self.sessions.append(options)
        real = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(names, feeds):
            self.batches.append(len(feeds["image"]))
            return real.run(names, feeds)

        names = [NAME] if self.starts else []
        return SimpleNamespace(
            run=run, disable_fallback=lambda: None,
            get_providers=lambda: [*names, "CPUExecutionProvider"],
        )  # fmt: skip


@pytest.fixture
def pretended(monkeypatch, plugin):
    module = Pretended()
    monkeypatch.setattr("foldcam.runtime.backends.onnxruntime._import", lambda: module)
    return module


def test_it_runs_on_the_plugin_s_first_gpu_with_the_model_s_shapes(pretended, tiny_model):
    backend = open_backend(tiny_model, "rtx")
    assert backend.device == "rtx"
    (options,) = pretended.sessions
    assert options.devices == [pretended.devices[1]]
    assert options.settings == {
        "device_id": "0",
        "enable_cuda_graph": "0",
        "nv_profile_min_shapes": "image:1x3x8x8",
        "nv_profile_opt_shapes": "image:1x3x8x8",
        "nv_profile_max_shapes": "image:8x3x8x8",
    }


def test_a_larger_batch_is_split_and_the_answers_are_right(pretended, tiny_model):
    images = np.random.default_rng(0).random((10, 3, 8, 8), np.float32)
    outputs = open_backend(tiny_model, "rtx").run(images)
    assert pretended.batches == [8, 2]
    expected = open_backend_on_cpu(tiny_model, images)
    for name, array in expected.items():
        np.testing.assert_array_equal(outputs[name], array)


def open_backend_on_cpu(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def test_its_library_is_registered_once_however_often_it_is_opened(pretended, tiny_model):
    for _ in range(3):
        open_backend(tiny_model, "rtx").close()
    assert len(pretended.registered) == 1


def test_without_the_plugin_it_is_one_sentence(tiny_model):
    with pytest.raises(FoldcamError, match="pip install onnxruntime-ep-nv-tensorrt-rtx"):
        open_backend(tiny_model, "rtx")


def test_an_onnxruntime_without_plugins_is_one_sentence(pretended, tiny_model, monkeypatch):
    monkeypatch.delattr(Pretended, "register_execution_provider_library")
    with pytest.raises(FoldcamError, match=r"takes no plugins.*onnxruntime>=1\.24"):
        open_backend(tiny_model, "rtx")


def test_no_gpu_is_one_sentence(pretended, tiny_model):
    pretended.devices = pretended.devices[:1]
    with pytest.raises(FoldcamError, match="finds no GPU that it supports"):
        open_backend(tiny_model, "rtx")


def test_a_session_without_it_is_one_sentence(pretended, tiny_model):
    pretended.starts = False
    with pytest.raises(FoldcamError, match="could not be started"):
        open_backend(tiny_model, "rtx")


@pytest.mark.skipif(
    not hasattr(onnxruntime, "register_execution_provider_library"), reason="needs plugins"
)
def test_a_library_that_cannot_be_loaded_is_one_sentence_of_the_real_onnxruntime(
    plugin, tiny_model
):
    with pytest.raises(FoldcamError, match="is installed and cannot be loaded") as caught:
        open_backend(tiny_model, "rtx")
    assert "\n" not in str(caught.value)


def test_the_command_says_what_to_install(runtime, tiny_model, photo):
    done = runtime("run", tiny_model, "--file", photo("a.png"), "--provider", "rtx")
    assert done.returncode == 1
    assert "pip install onnxruntime-ep-nv-tensorrt-rtx" in done.stderr
    assert "Traceback" not in done.stderr
