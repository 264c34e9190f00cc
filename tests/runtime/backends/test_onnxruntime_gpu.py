"""ONNX Runtime on a GPU, with a pretended module: providers, options, binding, graphs, fallback.

The binding itself is also run by the real ONNX Runtime, with the CPU in the GPU's place.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from foldcam.runtime.backends import open_backend
from foldcam.runtime.backends.ort_binding import BoundSession
from foldcam.runtime.backends.ort_providers import private_folder
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.system.errors import FoldcamError

CUDA, TENSORRT, CPU = (f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "CPU"))


class Pretended:
    """onnxruntime as it would be with a GPU: the real one computes, calls are recorded."""

    __version__ = "1.22.0"

    def __init__(self):
        self.calls = []
        self.available = [TENSORRT, CUDA, CPU]
        self.starts = [TENSORRT, CUDA, CPU]
        self.refuse_graph_at = ""
        self.sessions = []
        self.SessionOptions = onnxruntime.SessionOptions
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._allocate)

    def get_available_providers(self):
        return self.available

    def _allocate(self, shape, dtype, device, number):
        assert (device, number) == ("cuda", 0)
        self.calls.append(f"allocate {list(shape)} {np.dtype(dtype)}")
        return Value(np.full(shape, 77, dtype))

    def RunOptions(self):  # noqa: N802
        return Entries()

    def InferenceSession(self, path, options, providers, provider_options):  # noqa: N802
        session = Session(
            self, path, providers, dict(zip(providers, provider_options, strict=True))
        )
        self.sessions.append(session)
        if self.refuse_graph_at == "open" and session.graph:
            raise RuntimeError("all compute graph nodes have not been partitioned\nto CUDA")
        return session


class Value:
    def __init__(self, array):
        self.array = array

    def update_inplace(self, array):
        assert array.shape == self.array.shape
        assert array.dtype == self.array.dtype
        assert array.flags.c_contiguous
        self.array[...] = array

    def numpy(self):
        return self.array.copy()


class Entries(dict):
    def add_run_config_entry(self, key, value):
        self[key] = value


class Session:
    def __init__(self, module, path, providers, options):
        self.module, self.options, self.providers = module, options, providers
        self.real = onnxruntime.InferenceSession(path, providers=[CPU])
        self.fallback = True
        first = options[providers[0]]
        self.graph = (
            first.get("enable_cuda_graph") == "1" or first.get("trt_cuda_graph_enable") == "True"
        )

    def disable_fallback(self):
        self.fallback = False

    def get_providers(self):
        return [name for name in self.providers if name in self.module.starts]

    def io_binding(self):
        self.module.calls.append("binding")
        return Binding()

    def run(self, names, feeds):
        self.module.calls.append("run")
        return self.real.run(names, feeds)

    def run_with_iobinding(self, binding, options):
        self.module.calls.append(f"bound {(options or {}).get('gpu_graph_id', '')}".strip())
        if self.module.refuse_graph_at == "run" and self.graph:
            raise RuntimeError("CUDA failure 900: operation not permitted when capturing")
        names = list(binding.outputs)
        feeds = {name: value.array for name, value in binding.inputs.items()}
        for name, array in zip(names, self.real.run(names, feeds), strict=True):
            if binding.outputs[name] is None:
                binding.outputs[name] = Value(array)
            else:
                binding.outputs[name].update_inplace(array)


class Binding:
    def __init__(self):
        self.inputs, self.outputs = {}, {}

    def bind_ortvalue_input(self, name, value):
        self.inputs[name] = value

    def bind_ortvalue_output(self, name, value):
        self.outputs[name] = value

    def bind_output(self, name, device, number):
        self.outputs[name] = None

    def synchronize_inputs(self):
        pass

    def synchronize_outputs(self):
        pass

    def get_outputs(self):
        return list(self.outputs.values())


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    module = Pretended()
    monkeypatch.setattr("foldcam.runtime.backends.onnxruntime._import", lambda: module)
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    # The folders of pytest may be made with any umask.
    tmp_path.chmod(0o700)
    return module


def batch(rows, seed=0):
    return np.random.default_rng(seed).random((rows, 3, 8, 8), np.float32)


@pytest.fixture
def expected(tiny_model):
    real = onnxruntime.InferenceSession(str(tiny_model), providers=[CPU])
    names = [output.name for output in real.get_outputs()]

    def compare(outputs, images):
        for name, value in zip(names, real.run(names, {"image": images}), strict=True):
            np.testing.assert_array_equal(outputs[name], value)

    return compare


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_cuda_binds_memory_once_per_batch_size(pretended, tiny_model, expected, provider):
    backend = open_backend(tiny_model, provider)
    assert backend.device == "cuda"
    for seed, rows in enumerate((1, 1, 3, 1, 3)):
        images = batch(rows, seed)
        expected(backend.run(images), images)
    assert pretended.calls.count("binding") == 2
    assert pretended.calls.count("bound") == 5
    assert pretended.calls.count("allocate [1, 3, 8, 8] float32") == 1
    assert pretended.calls.count("allocate [3, 1, 2, 2] float32") == 1
    assert pretended.calls.count("allocate [3, 2] int32") == 1
    session = pretended.sessions[0]
    assert session.providers == [CUDA, CPU]
    assert session.options[CUDA] == {"device_id": "0", "use_tf32": "0"}
    assert not session.fallback


def test_results_are_the_callers_own(pretended, tiny_model):
    backend = open_backend(tiny_model, "cuda")
    first = backend.run(batch(1, 1))
    kept = {name: array.copy() for name, array in first.items()}
    backend.run(batch(1, 2))
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


def test_only_the_latest_batch_sizes_stay_bound(pretended, tiny_model, expected):
    backend = open_backend(tiny_model, "cuda")
    for rows in (1, 2, 3, 4, 5, 1):
        images = batch(rows)
        expected(backend.run(images), images)
    assert pretended.calls.count("binding") == 6
    backend.run(batch(5))
    assert pretended.calls.count("binding") == 6


def test_each_batch_size_has_a_graph_of_its_own_and_further_ones_none(
    pretended, tiny_model, expected
):
    backend = open_backend(tiny_model, "cuda", cuda_graph=True)
    assert pretended.sessions[0].options[CUDA]["enable_cuda_graph"] == "1"
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 5):
        images = batch(rows)
        expected(backend.run(images), images)
    graphs = [call.partition(" ")[2] for call in pretended.calls if call.startswith("bound")]
    # A graph replays into its own memory, so what was captured is never bound anew.
    assert graphs == ["1", "2", "3", "4", "-1", "-1", "-1", "-1", "-1", "1", "-1"]
    assert pretended.calls.count("allocate [1, 3, 8, 8] float32") == 1


@pytest.mark.parametrize("when", ["open", "run"])
def test_model_that_cannot_be_captured_runs_without_and_says_so(
    pretended, tiny_model, expected, capsys, when
):
    pretended.refuse_graph_at = when
    backend = open_backend(tiny_model, "cuda", cuda_graph=True)
    for seed in range(3):
        images = batch(2, seed)
        expected(backend.run(images), images)
    notes = capsys.readouterr().err
    assert notes.count("runs without a CUDA graph: ") == 1
    assert ("partitioned." in notes) == (when == "open")
    assert len(pretended.sessions) == 2
    assert not pretended.sessions[1].graph


def test_failure_without_a_graph_is_told(pretended, tiny_model):
    backend = open_backend(tiny_model, "cuda")
    with pytest.raises(
        FoldcamError, match=r"failed in onnxruntime 1\.22\.0 on cuda with a batch of"
    ):
        backend.run(np.zeros((1, 3, 9, 9), np.float32))


def test_outputs_beyond_the_contract_are_returned_too(pretended, make_model):
    def change(model):
        model.graph.output.append(
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", 3, 1, 1])
        )

    images = batch(2)
    outputs = open_backend(make_model(change=change), "cuda").run(images)
    np.testing.assert_allclose(outputs["pooled"][..., 0, 0], images.mean((2, 3)), rtol=1e-6)
    assert "embedding" in outputs


@pytest.mark.parametrize(
    ("provider", "started", "message"),
    [
        ("cuda", [CPU], "CUDA is in this onnxruntime but could not be started"),
        ("tensorrt", [CUDA, CPU], "TensorRT is in this onnxruntime but could not be started"),
    ],
)
def test_provider_asked_for_by_name_is_never_replaced(
    pretended, tiny_model, provider, started, message
):
    pretended.starts = started
    with pytest.raises(FoldcamError, match=message):
        open_backend(tiny_model, provider)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_provider_that_is_not_there_is_named(pretended, tiny_model, provider):
    pretended.available = [CPU]
    with pytest.raises(FoldcamError, match=r"This onnxruntime has no (CUDA|TensorRT)"):
        open_backend(tiny_model, provider)


def test_auto_falls_from_cuda_to_the_cpu_aloud(pretended, tiny_model, expected, capsys):
    pretended.starts = [CPU]
    backend = open_backend(tiny_model)
    images = batch(2)
    expected(backend.run(images), images)
    assert backend.device == "cpu"
    assert capsys.readouterr().err.count("running on the CPU") == 1
    assert "run" in pretended.calls
    assert "binding" not in pretended.calls


def test_tensorrt_keeps_its_engines_in_a_folder_of_this_user(pretended, tiny_model, expected):
    backend = open_backend(tiny_model, "tensorrt", cuda_graph=True)
    assert backend.device == "tensorrt"
    session = pretended.sessions[0]
    assert session.providers == [TENSORRT, CUDA, CPU]
    options = session.options[TENSORRT]
    folder = options.pop("trt_engine_cache_path")
    assert folder == options.pop("trt_timing_cache_path")
    assert folder.startswith(os.path.realpath(os.environ["XDG_CACHE_HOME"]))
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert options == {
        "device_id": "0",
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_fp16_enable": "False",
        "trt_cuda_graph_enable": "True",
        "trt_max_workspace_size": str(1 << 30),
        "trt_profile_min_shapes": "image:1x3x8x8",
        "trt_profile_opt_shapes": "image:1x3x8x8",
        "trt_profile_max_shapes": "image:8x3x8x8",
    }
    assert "enable_cuda_graph" not in session.options[CUDA]
    # A larger batch would build another engine in the midst of a run.
    images = batch(19)
    expected(backend.run(images), images)
    assert [call for call in pretended.calls if call.startswith("allocate") and "8, 8" in call] == [
        "allocate [8, 3, 8, 8] float32", "allocate [3, 3, 8, 8] float32",
    ]  # fmt: skip


def test_another_bank_has_another_cache(pretended, tiny_model, make_model):
    def change(model):
        for tensor in model.graph.initializer:
            if tensor.name == "bank_t":
                tensor.raw_data = np.eye(3, dtype=np.float32).tobytes()

    for path in (tiny_model, make_model(change=change), tiny_model):
        open_backend(path, "tensorrt")
    pretended.__class__.__version__, before = "1.23.0", pretended.__version__
    try:
        open_backend(tiny_model, "tensorrt")
    finally:
        pretended.__class__.__version__ = before
    folders = [each.options[TENSORRT]["trt_engine_cache_path"] for each in pretended.sessions]
    assert folders[0] == folders[2]
    assert len(set(folders)) == 3


@pytest.mark.parametrize(
    ("spoil", "fact"),
    [
        (lambda cache: cache.chmod(0o777), "can be written by others (mode 777)"),
        (lambda cache: cache.parent.chmod(0o770), "can be written by others (mode 770)"),
        (lambda cache: (cache / "x.engine").chmod(0o666), "x.engine can be written by others"),
        (lambda cache: (cache / "y.engine").symlink_to("/etc/passwd"), "is a symbolic link"),
        (lambda cache: os.chown(cache / "x.engine", 12345, 0), "belongs to user 12345"),
        (lambda cache: os.chown(cache, 12345, 0), "belongs to user 12345"),
        (lambda cache: os.chown(cache.parent, 12345, 0), "belongs to user 12345"),
    ],
)
def test_cache_that_others_could_write_is_refused(tmp_path, spoil, fact):
    if os.getuid() != 0 and "12345" in fact:
        pytest.skip("only root can give files away")
    tmp_path.chmod(0o700)
    cache = tmp_path / "root" / "cache"
    private_folder(cache)
    (cache / "x.engine").write_bytes(b"x")
    (cache / "x.engine").chmod(0o644)
    assert private_folder(cache) == cache.resolve()
    spoil(cache)
    with pytest.raises(FoldcamError) as caught:
        private_folder(cache)
    assert fact in str(caught.value)
    assert "XDG_CACHE_HOME" in str(caught.value)


def test_cache_in_a_shared_sticky_folder_is_fine(tmp_path):
    tmp_path.chmod(0o1777)
    folder = private_folder(tmp_path / "mine")
    assert folder.stat().st_mode & 0o777 == 0o700
    tmp_path.chmod(0o777)
    with pytest.raises(FoldcamError, match="can be written by others"):
        private_folder(tmp_path / "mine")


def test_real_binding_gives_what_a_plain_run_gives(tiny_model):
    session = onnxruntime.InferenceSession(str(tiny_model), providers=[CPU])
    bound = BoundSession(
        onnxruntime, session, read_contract(tiny_model), [], cuda_graph=False, device="cpu"
    )
    names = [output.name for output in session.get_outputs()]
    kept = []
    for seed, rows in enumerate((1, 4, 1, 2, 3, 5, 1)):
        images = batch(rows, seed)
        outputs = bound.run({"image": images[:, :, ::-1]})
        plain = session.run(names, {"image": np.ascontiguousarray(images[:, :, ::-1])})
        kept.append((outputs, dict(zip(names, plain, strict=True))))
    for outputs, plain in kept:
        assert set(outputs) == set(plain)
        for name, value in plain.items():
            np.testing.assert_array_equal(outputs[name], value)


def test_without_copies_the_bound_tensors_are_run_again(pretended, tiny_model):
    backend = open_backend(tiny_model, "cuda")
    images = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    before = backend.run(images)
    mark = len(pretended.calls)
    backend.run_resident(2)
    # Nothing is allocated and nothing bound: what lies there is computed again.
    assert pretended.calls[mark:] == ["bound"]
    after = backend.run(images)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_on_a_processor_there_are_no_copies_to_leave_out(tiny_model):
    backend = open_backend(tiny_model, "cpu")
    with pytest.raises(FoldcamError, match="runs on the cpu, where nothing is copied"):
        backend.run_resident(1)


def test_each_provider_is_shown_the_probe_pictures(pretended, make_probed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = make_probed()
    pretended.calls.clear()
    for provider, call in (("cuda", "bound"), ("tensorrt", "bound"), ("cpu", "run")):
        for times in (3, 0):
            pretended.calls.clear()
            open_backend(model, provider).close()
            assert pretended.calls.count(call) == times
    # CUDA alone is wrong, and the advice in the message leads to success.
    right = Session.run_with_iobinding

    def turned(self, binding, options):
        right(self, binding, options)
        heat = binding.outputs["heatmap"]
        heat.update_inplace(np.ascontiguousarray(heat.array[..., ::-1]))

    monkeypatch.setattr(Session, "run_with_iobinding", turned)
    other = make_probed("other.onnx", precision="fp16")
    for provider in ("auto", "cuda", "tensorrt"):
        with pytest.raises(FoldcamError, match=r"other\.onnx with --provider cpu"):
            open_backend(other, provider)
    assert open_backend(other, "cpu").device == "cpu"
