"""Where networks run: what is chosen, what is said, and who is handed the choice."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from foldcam.export.commands.options import device_of
from foldcam.export.models.spec import load_model, wrap_module
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.networks.traced_graph import moved
from foldcam.export.onnx_graphs import device as module
from foldcam.export.onnx_graphs import session
from foldcam.export.onnx_graphs.device import CPU, Device, choose_device
from foldcam.runtime.engine.device import Gpu
from foldcam.runtime.system.errors import FoldcamError

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture
def machine(monkeypatch):
    """`machine(gpu, available, started)`: what driver and ONNX Runtime answer."""

    def call(gpu, available=(CPU_PROVIDER,), started=(CPU_PROVIDER,)):
        found = Gpu("Fake 1", "9.0", False, 1 << 30) if gpu else None
        monkeypatch.setattr(module, "find_gpu", lambda: found)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(available))
        asked = []

        def new_session(model, options, providers):
            asked.append(providers)
            return SimpleNamespace(
                get_providers=lambda: list(started), disable_fallback=lambda: None
            )

        monkeypatch.setattr(onnxruntime, "InferenceSession", new_session)
        return asked

    return call


BOTH = (CUDA_PROVIDER, CPU_PROVIDER)


def test_the_processor_is_taken_without_a_question(monkeypatch):
    monkeypatch.setattr(module, "find_gpu", lambda: pytest.fail("the driver was asked"))
    assert choose_device("cpu") is CPU
    assert (CPU.text, CPU.provider, CPU.note) == ("cpu", "cpu", "")
    assert CPU.providers() == [CPU_PROVIDER]


def test_a_gpu_on_which_onnx_runtime_starts_is_taken(machine):
    (asked,) = [machine(True, BOTH, BOTH)]
    device = choose_device("auto")
    assert (device.text, device.provider) == ("cuda: Fake 1", "cuda")
    assert device.note == "embedding on cuda: Fake 1"
    # In float32: the default of its CUDA rounds to ten bits.
    cuda = (CUDA_PROVIDER, {"device_id": "0", "use_tf32": "0"})
    assert asked == [[cuda, CPU_PROVIDER]] == [device.providers()]


@pytest.mark.parametrize(
    ("gpu", "available", "started", "clause"),
    [
        (False, (CPU_PROVIDER,), (CPU_PROVIDER,), "the CUDA driver reports no GPU here"),
        (True, (CPU_PROVIDER,), (CPU_PROVIDER,), "has no CUDA: pip install onnxruntime-gpu"),
        (True, BOTH, (CPU_PROVIDER,), "has CUDA and cannot start it: install the driver"),
    ],
)
def test_a_gpu_that_cannot_be_had_is_refused_with_what_to_install_and_auto_does_without(
    machine, gpu, available, started, clause
):
    machine(gpu, available, started)
    with pytest.raises(FoldcamError, match=f"^--device cuda: .*{clause}.*--device cpu.$"):
        choose_device("cuda")
    device = choose_device("auto")
    assert device.text == "cpu"
    # A GPU that lies idle is said, and a machine without one is not.
    assert (clause in device.note) == gpu
    assert ("Fake 1 is not used" in device.note) == gpu


def test_the_choice_is_said_once_on_standard_error(machine, capsys):
    machine(True, BOTH, BOTH)
    assert device_of("cuda").provider == "cuda"
    assert capsys.readouterr() == ("", "embedding on cuda: Fake 1\n")
    machine(False)
    assert device_of("auto").provider == "cpu"
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def sessions(monkeypatch):
    """The device of each session that is made; all run on the processor."""
    made = []
    usual = session._session

    def new_session(model, device, plain=False):
        made.append(device)
        return usual(model, CPU, plain)

    monkeypatch.setattr(session, "_session", new_session)
    return made


def _fake(wanted="auto"):
    return Device("Fake 1", wanted)


def test_a_trunk_runs_on_the_device_and_what_is_only_looked_at_on_the_processor(
    networks, preprocessing, sessions
):
    loaded = wrap_module(networks.Normalized(), preprocessing=preprocessing)
    network = replace(loaded, device=_fake()).network()
    assert network.summands == "pool"
    assert sessions[-1] == _fake()
    assert set(sessions[:-1]) == {CPU}


def test_an_onnx_network_runs_on_the_device(onnx_files, tmp_path, sessions):
    path = onnx_files.save(onnx_files.STYLES["face"](), tmp_path)
    network = load_model(str(path), device=_fake()).network(size=onnx_files.SIZE, summands=False)
    assert sessions.count(_fake()) == 1
    sessions.clear()
    network.forward(torch.zeros(2, 3, *network.image_size))
    assert sessions == []


def test_a_network_that_runs_in_torch_follows_torchs_own_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert _fake().for_torch().type == "cuda"
    assert CPU.for_torch().type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _fake().for_torch().type == "cpu"
    with pytest.raises(FoldcamError, match="torch, which finds no CUDA device here: install"):
        _fake("cuda").for_torch()


def test_a_trunk_is_copied_to_the_device_when_the_first_image_comes(networks, monkeypatch):
    places = []
    monkeypatch.setattr(
        Device, "for_torch", lambda self: places.append(self) or torch.device("cpu")
    )
    network = TorchNetwork(networks.PlainConv(), networks.SIZE, device=_fake())
    network.to_onnx()
    assert places == []
    for _ in range(2):
        network.forward(torch.zeros(2, 3, *networks.SIZE))
    assert places == [_fake()]


def test_a_moved_graph_is_a_copy_with_the_constants_of_its_nodes(networks):
    class Shifted(networks.PlainConv):
        def forward(self, image):
            return super().forward(image + torch.arange(image.shape[-1]))

    network = TorchNetwork(Shifted(), networks.SIZE)
    copy = moved(network.trunk_module, torch.device("meta"))
    (found, *_) = copy(torch.zeros(2, 3, *networks.SIZE, device="meta"))
    assert found.is_meta
    assert found.shape == (2, *network.feature_map_shape)
    assert not network.forward(torch.zeros(2, 3, *networks.SIZE)).feature_map.is_meta


@pytest.mark.parametrize(
    "command",
    [
        ("export", "no:network", "--images", "photos"),
        ("bank", "build", "no:network", "--images", "photos"),
    ],
)
def test_commands_refuse_before_the_network_is_loaded(
    command, foldcam, photos, working_directory, monkeypatch
):
    monkeypatch.setattr(module, "find_gpu", lambda: None)
    status, _, error = foldcam(*command, "--device", "cuda")
    assert status == 1
    assert error.splitlines()[-1].endswith("reports no GPU here: use --device cpu.")
    status, _, error = foldcam(*command, "--device", "gpu")
    assert status == 2
    assert "is not one of auto, cpu, cuda" in " ".join(error.split())


@pytest.mark.gpu
@pytest.mark.parametrize("summands", [True, False])
def test_a_gpu_gives_the_processors_activations(networks, preprocessing, summands):
    """Has to run on a machine with a GPU, onnxruntime-gpu, and a torch with CUDA."""
    torch.manual_seed(0)
    loaded = wrap_module(networks.Normalized(), preprocessing=preprocessing)
    images = torch.randn(4, 3, *networks.SIZE)
    expected, found = (
        replace(loaded, device=device).network(summands=summands).forward(images)
        for device in (CPU, choose_device("cuda"))
    )
    assert found.feature_map.device.type == "cpu"
    for name in ("feature_map", "embedding"):
        one, other = getattr(expected, name).numpy(), getattr(found, name).numpy()
        np.testing.assert_allclose(one, other, atol=1e-5 * float(np.abs(one).max()))
