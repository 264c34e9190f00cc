"""A network is cut once where it is asked for twice, and again where its numbers changed."""

from __future__ import annotations

import torch

from foldcam.export.models.spec import wrap_module
from foldcam.runtime.images.preprocess import Preprocessing


def test_a_network_is_cut_once_and_again_after_training(networks):
    height, width = networks.SIZE
    torch.manual_seed(0)
    module = networks.PlainConv()
    loaded = wrap_module(module, preprocessing=Preprocessing(width, height))
    first = loaded.network()
    assert loaded.network() is first
    assert loaded.network(first.layer) is first
    assert loaded.network(summands=False) is not first
    again = loaded.network()
    with torch.no_grad():
        module.fc.weight.mul_(2)
    changed = loaded.network()
    assert changed is not again
    images = torch.ones(1, 3, height, width)
    torch.testing.assert_close(changed.forward(images).embedding, module(images))
