"""Checkpoints of training scripts: what wrappers put around the weights is taken off, and said."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foldcam.export.models.spec import load_model
from foldcam.export.models.weights import load_weights
from foldcam.runtime.system.errors import FoldcamError


class _Named(nn.Module):
    """Its own names begin with one of the wrappers'."""

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(2, 3)


def _module():
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


def _filled(module):
    return {
        name: torch.full_like(tensor, 3) if tensor.is_floating_point() else tensor
        for name, tensor in module.state_dict().items()
    }


def _under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "DataParallel": (lambda s: _under("module.", s), "the prefix 'module.'"),
    "torch.compile": (lambda s: _under("_orig_mod.", s), "the prefix '_orig_mod.'"),
    "both": (lambda s: _under("module._orig_mod.", s), "the prefix 'module._orig_mod.'"),
    "Lightning": (
        lambda s: {"state_dict": _under("model.", s), "epoch": 3},
        "the entry 'state_dict' was taken and the prefix 'model.'",
    ),
    "a checkpoint": (
        lambda s: {"model_state_dict": s, "optimizer": {"step": 1}},
        "the entry 'model_state_dict'",
    ),
    "under model": (lambda s: {"model": s, "best": 0.9}, "the entry 'model'"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_wrappers_add_is_taken_off_and_said(name, tmp_path):
    wrap, sentence = WRAPPED[name]
    module, path = _module(), tmp_path / "weights.pt"
    expected = _filled(module)
    torch.save(wrap(expected), path)
    note = load_weights(module, path)
    assert note is not None
    assert sentence in note
    assert "weights.pt" in note
    for key, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, expected[key])


def test_safetensors_with_a_prefix_are_taken_as_well(tmp_path):
    module, path = _module(), tmp_path / "weights.safetensors"
    save_file(_under("module.", _filled(module)), path)
    assert "'module.'" in str(load_weights(module, path))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: _under("module.", s)])
def test_a_prefix_of_the_networks_own_stays(wrap, tmp_path):
    module, path = _Named(), tmp_path / "weights.pt"
    expected = _filled(module)
    torch.save(wrap(expected), path)
    load_weights(module, path)
    torch.testing.assert_close(module.model.weight, expected["model.weight"])


def test_names_that_fit_are_nothing_to_speak_of(tmp_path):
    module, path = _module(), tmp_path / "weights.pt"
    torch.save(module.state_dict(), path)
    assert load_weights(module, path) is None


def test_a_prefix_before_another_network_is_still_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(_under("module.", nn.Linear(2, 2).state_dict()), path)
    with pytest.raises(FoldcamError, match=r"missing 0\.weight.*unexpected module\.weight"):
        load_weights(_module(), path)


def test_the_note_reaches_the_network(working_directory, tmp_path):
    (working_directory / "wrapped_net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.conv = nn.Conv2d(3, 4, 3, 2)\n"
        "    def forward(self, image):\n"
        "        return self.conv(image).relu().mean((2, 3))\n"
    )
    plain = load_model("wrapped_net:Net")
    path = tmp_path / "weights.pt"
    torch.save(_under("module.", plain.module.state_dict()), path)
    network = load_model("wrapped_net:Net", path).network(size=(24, 24))
    assert any("'module.' was taken off" in note for note in network.notes)
    assert not plain.network(size=(24, 24)).notes
