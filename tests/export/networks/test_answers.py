"""Networks whose answer depends on more than the image."""

from __future__ import annotations

import pytest
import torch

from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.system.errors import FoldcamError


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("AlwaysDropout", r"not deterministic.*\(dropout draws"),
        ("FaintNoise", r"not deterministic.*\(randn_like draws"),
        ("AlwaysBatchNorm", "depends on the other images of its batch"),
    ],
)
def test_a_network_that_eval_mode_does_not_settle_is_refused(name, what, networks):
    with pytest.raises(FoldcamError, match=what) as caught:
        TorchNetwork(getattr(networks, name)(), networks.SIZE)
    assert "\n" not in str(caught.value)


def test_modules_left_in_training_mode_give_the_network_of_eval_mode(networks, hand_built):
    torch.manual_seed(0)
    module = networks.Training()
    assert module.training
    images = torch.randn(3, 3, *networks.SIZE)
    expected = module.eval()(images).detach()
    module.train()
    network = TorchNetwork(module, networks.SIZE)
    torch.testing.assert_close(network.forward(images).embedding, expected)
    made = network.to_onnx()
    assert not {"Dropout", "RandomNormal", "RandomUniform"} & {n.op_type for n in made.graph.node}
    got = hand_built.run(made, images.numpy())["embedding"]
    torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-5, rtol=1e-5)


def test_asking_leaves_the_callers_random_numbers_alone(networks):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(FoldcamError):
        TorchNetwork(networks.AlwaysDropout(), networks.SIZE)
    module = networks.PlainConv()
    torch.manual_seed(5)
    TorchNetwork(module, networks.SIZE)
    torch.testing.assert_close(torch.rand(3), expected)


def test_values_that_are_not_finite_are_not_taken_for_chance(networks):
    try:
        TorchNetwork(networks.NotANumber(), networks.SIZE)
    except FoldcamError as error:
        assert "deterministic" not in str(error)  # noqa: PT017  (it may be refused for another reason)
