"""Summands of torch networks: those of the tests, and architectures that people embed with."""

from __future__ import annotations

import pytest
import torch

from foldcam.benchmarks.studies.architectures.zoo import architectures
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.onnx_networks.summand_network import with_summands
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.runtime.images.preprocess import Preprocessing

# The kind of sum of each, `none` where there is none, and whether a linear head is behind it.
TINY = {
    "PlainConv": ("pool", True),
    "Normalized": ("pool", True),
    "DividedInPlace": ("pool", True),
    "LearnedScale": ("pool", True),
    "NormalizedThenView": ("pool", True),
    "NeckNormalized": ("pool", True),
    "RowGate": ("pool", False),
    "Softmax": ("pool", False),
    "SqueezeExcite": ("pool", True),
    "FlattenHead": ("linear", True),
    "GlobalDepthwise": ("depthwise", True),
    "TwoPools": ("none", False),
    "MlpHead": ("pool", False),
    "FunctionalActivation": ("pool", True),
    "WritesThroughView": ("pool", True),
    "Training": ("pool", True),
    "Attentive": ("pool", True),
    "NamedLikeOutputs": ("pool", True),
}
ARCHITECTURES = {
    "ConvNeXt": "pool",
    "ViT": "attention",
    "DINOv2 with registers": "attention",
    "SigLIP": "attention",
    "BEiT": "pool",
    "global depthwise": "depthwise",
    "flatten": "linear",
    "attention pooling": "pool",
}


def _cosines(found, expected):
    return torch.nn.functional.cosine_similarity(found.double(), expected.double())


def _check(base, network, images):
    """The same embedding, and for a pool the same gradient as where the map is cut."""
    own, found = base.forward(images), network.forward(images)
    # Embeddings of the network itself, in torch.
    torch.testing.assert_close(found.embedding, own.embedding, rtol=1e-4, atol=1e-5)
    assert (1 - _cosines(found.embedding, own.embedding)).abs().max() < 1e-7
    (folded,) = GraphSession(network.to_onnx(), ["embedding"]).run(images.numpy())
    assert (1 - _cosines(torch.from_numpy(folded), own.embedding)).abs().max() < 1e-7
    directions = torch.randn(
        len(images), network.embedding_size, generator=torch.Generator().manual_seed(2)
    )
    pulled = network.pull_back(found, directions)
    assert pulled.shape == (len(images), network.feature_map_shape[0])
    assert pulled.abs().max() > 0
    return own, found, directions, pulled


@pytest.mark.parametrize("name", TINY)
def test_a_network_of_the_tests_adds_up(name, cut, networks):
    kind, linear = TINY[name]
    base = cut(name)
    network = with_summands(base)
    assert network.summands == kind
    if kind == "none":
        assert network is base
        return
    images = torch.randn(4, 3, *networks.SIZE, generator=torch.Generator().manual_seed(1))
    own, found, directions, pulled = _check(base, network, images)
    assert network.head_is_linear(found) == linear
    summed = torch.einsum("nk,nkhw->n", pulled, found.feature_map)
    if base.head_is_linear(own):
        # The gradient with respect to every cell of the map, times the cell: the same sum.
        by_cell = (base.pull_back_map(own, directions) * own.feature_map).sum(dim=(1, 2, 3))
        torch.testing.assert_close(summed, by_cell, rtol=1e-4, atol=1e-5)
    if linear:
        nothing = type(found)(torch.zeros_like(found.feature_map), found.embedding, found.context)
        rest = (network.head_end(nothing) * directions).sum(dim=1)
        score = (network.head_end(found) * directions).sum(dim=1)
        torch.testing.assert_close(summed + rest, score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_cut_at_its_sum(name):
    described = architectures()[name]
    torch.manual_seed(0)
    height, width = described.size
    module = described.make().eval()
    loaded = LoadedModel(module, Preprocessing(width, height), name, "", described.output)
    network = loaded.network()
    assert network.summands == ARCHITECTURES[name]
    base = network.base
    assert isinstance(base, TorchNetwork)
    assert not any("no function of one sum" in note for note in network.notes)
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    own, found, directions, pulled = _check(base, network, images)
    alone = network.forward(images[:1])
    scale = found.feature_map.abs().max()
    assert (alone.feature_map - found.feature_map[:1]).abs().max() < 1e-4 * scale
    if network.summands == "pool":
        by_cell = (base.pull_back_map(own, directions) * own.feature_map).sum(dim=(1, 2, 3))
        summed = torch.einsum("nk,nkhw->n", pulled, found.feature_map)
        torch.testing.assert_close(summed, by_cell, rtol=1e-3, atol=1e-5)
