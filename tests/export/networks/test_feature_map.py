"""The feature map is found, named, and refused where there is none."""

from __future__ import annotations

import onnx
import pytest
import torch

from foldcam.export.models.spec import load_model
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.system.errors import FoldcamError


@pytest.mark.parametrize(
    "name",
    [
        "PlainConv",
        "SqueezeExcite",
        "FlattenHead",
        "GlobalDepthwise",
        "TwoPools",
        "BottleNeck",
        "MlpHead",
        "FunctionalActivation",
        "SharedActivation",
        "WritesThroughView",
        "Training",
    ],
)
def test_feature_map_is_the_last_activation_before_the_reduction(name, networks, cut):
    network = cut(name)
    torch.manual_seed(0)
    module = getattr(networks, name)().eval()
    images = torch.randn(3, 3, *networks.SIZE)
    activations = network.forward(images)
    assert network.feature_map_shape == (4, 5, 7)
    torch.testing.assert_close(activations.feature_map, module.feature(images))
    torch.testing.assert_close(activations.embedding, module(images))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("PlainConv", "trunk.act"),
        ("FunctionalActivation", "relu_1"),
        ("SharedActivation", "relu"),
        ("SqueezeExcite", "mul"),
    ],
)
def test_layer_has_the_name_a_user_would_give_it(name, layer, cut):
    assert cut(name).layer == layer


@pytest.mark.parametrize("layer", ["trunk.conv", "conv2d"])
def test_layer_can_be_named_by_module_path_or_node(layer, networks, cut):
    network = cut("PlainConv", layer)
    torch.manual_seed(0)
    module = networks.PlainConv().eval()
    images = torch.randn(2, 3, *networks.SIZE)
    expected = module.trunk.conv(images)
    assert expected.min() < 0  # before the ReLU
    torch.testing.assert_close(network.forward(images).feature_map, expected)


def test_an_enclosing_module_names_its_last_spatial_output(cut):
    assert cut("PlainConv", "trunk").feature_map_shape == (4, 5, 7)
    assert cut("PlainConv", "trunk").layer == "trunk"


def test_every_use_of_a_shared_activation_has_its_own_name(networks, cut):
    images = torch.randn(2, 3, *networks.SIZE)
    names = [candidate.name for candidate in cut("SharedActivation").candidates]
    assert len(names) == len(set(names)) == 4
    torch.manual_seed(0)
    module = networks.SharedActivation().eval()
    first = module.relu(module.first(images))
    found = [cut("SharedActivation", name).forward(images).feature_map for name in names]
    torch.testing.assert_close(found[1], first)
    torch.testing.assert_close(found[3], module.feature(images))
    assert [cut("SharedActivation", name).layer for name in names] == names


def test_a_layer_before_an_in_place_activation_keeps_its_values_and_gradient(networks, cut):
    network = cut("SharedActivation", "second")
    images = torch.randn(2, 3, *networks.SIZE)
    activations = network.forward(images)
    assert activations.feature_map.min() < 0
    pulled = network.pull_back(activations, torch.ones(2, 3))
    assert pulled.abs().max() > 0
    exported_map, _ = network.program(images)
    torch.testing.assert_close(exported_map, activations.feature_map)


def test_an_unknown_layer_lists_the_candidates_with_shapes(networks):
    with pytest.raises(FoldcamError, match=r"no layer 'nope'.*trunk\.act \[4 x 5 x 7\]"):
        TorchNetwork(networks.PlainConv(), networks.SIZE, "nope")


@pytest.mark.parametrize(
    ("name", "layer"), [("SideBranch", "side"), ("PlainConv", "fc"), ("Normalized", "linear")]
)
def test_a_layer_that_does_not_lead_to_the_embedding_is_refused(name, layer, networks):
    with pytest.raises(FoldcamError, match=f"Layer '{layer}' has no spatial.*choose one of: trunk"):
        TorchNetwork(getattr(networks, name)(), networks.SIZE, layer)


def test_a_head_that_blocks_the_gradient_gives_zeros(networks, cut):
    activations = cut("Detached").forward(torch.randn(2, 3, *networks.SIZE))
    assert (cut("Detached").pull_back(activations, torch.ones(2, 3)) == 0).all()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("NoMap", "no spatial feature map"),
        ("FixedBatch", "batch"),
        ("TwoOutputs", "returns 2 tensors"),
        ("DataDependent", "cannot trace the network"),
        ("NamedGraph", "cannot flatten the network"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_in_one_sentence(name, sentence, networks):
    with pytest.raises(FoldcamError, match=sentence) as caught:
        TorchNetwork(getattr(networks, name)(), networks.SIZE)
    assert "\n" not in str(caught.value)


def test_a_network_in_train_mode_is_taken_in_eval_mode(networks):
    network = TorchNetwork(networks.Training(), networks.SIZE)
    images = torch.randn(4, 3, *networks.SIZE)
    whole, parts = network.forward(images), [network.forward(images[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(whole.embedding, torch.cat([part.embedding for part in parts]))
    torch.testing.assert_close(whole.embedding, network.forward(images).embedding)


def test_the_hash_knows_parameters_and_constants(networks):
    def digest(factor, seed):
        torch.manual_seed(seed)
        return TorchNetwork(networks.Constant(factor), networks.SIZE).sha256()

    assert digest(2.0, 0) == digest(2.0, 0)
    assert digest(2.0, 0) != digest(2.0, 1)
    assert digest(2.0, 0) != digest(3.0, 0)


class TokensFirst(torch.nn.Module):
    """A class token and an attention that has tokens before images, as torch's does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = torch.nn.Conv2d(3, 8, 4, 4)
        self.token = torch.nn.Parameter(torch.randn(8))
        self.norm, self.attention = torch.nn.LayerNorm(8), torch.nn.MultiheadAttention(8, 2)

    def forward(self, image):
        x = self.patches(image).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.token + torch.zeros_like(x[:1]), x])
        y = self.norm(x)
        return (x + self.attention(y, y, y, need_weights=False)[0])[0]


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_tokens_before_images_are_read_as_a_map(kind, tmp_path):
    module = TokensFirst().eval()
    images = torch.randn(3, 3, 8, 12)
    network = TorchNetwork(module, (8, 12))
    if kind == "onnx":
        path = tmp_path / "tokens.onnx"
        options = {"input_names": ["image"], "dynamic_axes": {"image": {0: "n"}}}
        torch.onnx.export(
            module, (images[:1],), str(path), dynamo=False, opset_version=17, **options
        )
        network = load_model(str(path)).network(size=(8, 12), summands=False)
    activations = network.forward(images)
    assert network.feature_map_shape == (8, 2, 3)
    torch.testing.assert_close(activations.embedding, module(images), rtol=1e-4, atol=1e-5)
    tokens = module.patches(images)
    expected = module.norm(tokens.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(activations.feature_map, expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)).expand(3, -1)
    pulled = network.pull_back(activations, direction)
    own = TorchNetwork(module, (8, 12))
    torch.testing.assert_close(
        pulled, own.pull_back(own.forward(images), direction), rtol=1e-3, atol=1e-5
    )
    assert pulled.abs().max() > 0
    onnx.checker.check_model(network.to_onnx(), full_check=True)
