"""The embedding is found in whatever a network returns."""

from __future__ import annotations

import re
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from foldcam.export.networks.outputs import embedding_only
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.system.errors import FoldcamError

Pair = namedtuple("Pair", "features embedding")


@dataclass
class Answer:
    embedding: torch.Tensor
    nothing: torch.Tensor | None = None


class Returns(nn.Module):
    """Embedding `[N, 5]` and map `[N, 5, 4, 4]`, packed by `pack`."""

    def __init__(self, pack) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pack = nn.Conv2d(3, 5, 2, 2), pack

    def forward(self, image):
        features = torch.relu(self.conv(image))
        return self.pack(features, features.mean((2, 3)))


ONE = {
    "alone": lambda m, e: e,
    "tuple": lambda m, e: (m, e),
    "nested": lambda m, e: [m, {"heads": (None, e)}],
    "dictionary": lambda m, e: {"map": m, "embedding": e},
    "dataclass": lambda m, e: Answer(e),
    "named tuple": lambda m, e: Pair(m, e),
    "one by one": lambda m, e: (m, e[:, :, None, None]),
    "the same twice": lambda m, e: {"a": e, "b": e},
    "logit beside it": lambda m, e: (e, e[:, :1]),
    "counts beside it": lambda m, e: (e, e.long()),
}


@pytest.mark.parametrize("name", ONE)
def test_one_embedding_is_taken(name):
    module = Returns(ONE[name]).eval()
    images = torch.randn(3, 3, 8, 8)
    expected = torch.relu(module.conv(images)).mean((2, 3))
    torch.testing.assert_close(embedding_only(module, images)(images), expected)
    network = TorchNetwork(module, (8, 8))
    torch.testing.assert_close(network.forward(images).embedding, expected)
    assert network.feature_map_shape == (5, 4, 4)
    assert not network.layer.startswith("wrapped")


def test_several_are_listed_and_one_is_chosen_by_name():
    module = Returns(lambda m, e: {"map": m, "global": e, "parts": (e * 2, e * 3)}).eval()
    images = torch.randn(3, 3, 8, 8)
    with pytest.raises(FoldcamError, match=r"3 tensors.*--output: global \[N x 5\], parts\.0"):
        embedding_only(module, images)
    expected = torch.relu(module.conv(images)).mean((2, 3)) * 3
    network = TorchNetwork(module, (8, 8), output="parts.1")
    torch.testing.assert_close(network.forward(images).embedding, expected)


@pytest.mark.parametrize(
    ("pack", "output", "sentence"),
    [
        (lambda m, e: m, None, r"returns output \[N x 5 x 4 x 4\] where one embedding"),
        (lambda m, e: None, None, "returns no tensor"),
        (lambda m, e: e.sum(), None, r"returns output \[\]"),
        (lambda m, e: e[:1], None, "where one embedding"),
        (lambda m, e: (m, e), "feature", r"no output 'feature'; it returns 0 \[N x 5 x 4 x 4\]"),
        (lambda m, e: (m, e), "0", r"The output 0 \[N x 5 x 4 x 4\] is not an embedding"),
        (lambda m, e: m.reshape(3, 9, -1), None, r"cannot run on images \[3 x 3 x 8 x 8\]"),
    ],
)
def test_what_is_no_embedding_is_refused_in_one_sentence(pack, output, sentence):
    with pytest.raises(FoldcamError, match=sentence) as caught:
        embedding_only(Returns(pack).eval(), torch.randn(3, 3, 8, 8), output)
    assert "\n" not in str(caught.value)


def test_what_torch_wraps_around_a_network_is_taken_off():
    module = Returns(ONE["alone"]).eval()
    images = torch.randn(3, 3, 8, 8)
    for wrapped in (nn.DataParallel(module), torch.compile(module)):
        network = TorchNetwork(wrapped, (8, 8))
        torch.testing.assert_close(network.forward(images).embedding, module(images))


class AnyArguments(Returns):
    def forward(self, *inputs, **_):
        return super().forward(inputs[0])


def test_a_network_of_any_arguments_is_given_the_image():
    module = AnyArguments(ONE["alone"]).eval()
    images = torch.randn(3, 3, 8, 8)
    network = TorchNetwork(module, (8, 8))
    torch.testing.assert_close(network.forward(images).embedding, module(images))


def test_torchscript_is_refused_in_one_sentence():
    script = torch.jit.trace(Returns(ONE["alone"]).eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(FoldcamError, match="TorchScript"):
        TorchNetwork(script, (8, 8))


class _Sound(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 4, 9, 4)

    def forward(self, wave):
        return self.first(wave).mean(2)


class _Grey(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)

    def forward(self, image):
        return self.first(image).mean((2, 3))


class _Sized(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 4, 4)
        self.head = nn.Linear(4 * 28 * 28, 3)

    def forward(self, image):
        return self.head(self.first(image).flatten(1))


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (_Sound, "it takes no images .* such as sound"),
        (_Grey, "it takes grey images"),
        (_Sized, r"it runs at --size 112\.$"),
    ],
)
def test_what_a_network_runs_on_is_tried_before_it_is_advised(module, sentence):
    with pytest.raises(FoldcamError, match=sentence) as caught:
        TorchNetwork(module().eval(), (40, 40))
    assert "\n" not in str(caught.value)
    size = re.search(r"--size (\d+)", str(caught.value))
    if size:
        side = int(size.group(1))
        assert TorchNetwork(module().eval(), (side, side)).embedding_size == 3
