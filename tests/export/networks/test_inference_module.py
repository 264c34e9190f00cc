"""Modules written in ways that a plain trace would stumble over."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.system.errors import FoldcamError

SIZE = (8, 12)


class Plain(nn.Module):
    """Map `[N, 4, 4, 6]`, pool, linear to 5."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 5)

    def forward(self, image):
        return self.fc(torch.relu(self.conv(image)).mean((2, 3)))


class KeywordOnly(Plain):
    def forward(self, *, pixel_values, scale=1.0):
        return super().forward(pixel_values) * scale


class WithoutGradients(Plain):
    @torch.no_grad()
    def forward(self, image):
        return super().forward(image)


class FrozenTrunk(Plain):
    def forward(self, image):
        with torch.no_grad():
            features = torch.relu(self.conv(image))
        return self.fc(features.mean((2, 3)))


class WritesIntoItsImage(Plain):
    def forward(self, image):
        return super().forward(image.sub_(0.5).div_(2.0))


class SqueezesAll(Plain):
    """For a batch of one, torch itself drops the batch here."""

    def forward(self, image):
        pooled = nn.functional.adaptive_avg_pool2d(torch.relu(self.conv(image)), 1)
        return self.fc(pooled.squeeze())


class Parametrized(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(self.conv)
        self.fc = parametrizations.spectral_norm(parametrizations.orthogonal(self.fc))


@pytest.mark.parametrize(
    "kind",
    [
        KeywordOnly,
        WithoutGradients,
        FrozenTrunk,
        WritesIntoItsImage,
        SqueezesAll,
        Parametrized,
    ],
)
def test_a_network_is_cut_and_written_with_its_own_embeddings(kind):
    module = kind().eval()
    images = torch.randn(3, 3, *SIZE)
    given = {"pixel_values": images} if kind is KeywordOnly else None
    with torch.no_grad():
        expected = module(images.clone()) if given is None else module(**given)
    before = images.clone()
    network = TorchNetwork(module, SIZE)
    assert network.feature_map_shape == (4, 4, 6)
    activations = network.forward(images)
    torch.testing.assert_close(activations.embedding, expected)
    assert network.pull_back(activations, torch.ones(3, 5)).abs().sum() > 0
    torch.testing.assert_close(images, before)
    session = onnxruntime.InferenceSession(
        network.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for count in (1, 3):
        (found,) = session.run(["embedding"], {"image": images[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected[:count])


class Autocast(Plain):
    def forward(self, image):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(image)


def test_autocast_inside_the_network_is_refused_in_one_sentence():
    with pytest.raises(FoldcamError, match=r"under torch\.autocast.*take it out"):
        TorchNetwork(Autocast(), SIZE)


def test_a_network_without_values_is_refused_by_the_name_of_one():
    with torch.device("meta"):
        module = Plain()
    with pytest.raises(FoldcamError, match=r"'conv\.weight' has no values.*meta device"):
        TorchNetwork(module, SIZE)
