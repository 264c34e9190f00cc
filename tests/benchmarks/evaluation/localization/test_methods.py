"""The compared heatmaps, against autograd by hand on networks small enough to follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foldcam.benchmarks.evaluation.localization.methods import (
    METHODS,
    REFERENCE,
    TRANSFERRED,
    Methods,
    Question,
    through_normalization,
    weighted,
)
from foldcam.export.banks.bank import Bank, label_runs
from foldcam.export.banks.objectives.directions import all_triplets
from foldcam.export.networks.cut import Network
from foldcam.export.networks.torch_cut import TorchNetwork


class _Tiny(nn.Module):
    """Convolution, ReLU, average pool, linear, normalised; `mlp` adds a hidden layer."""

    def __init__(self, mlp: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.hidden = nn.Linear(5, 6) if mlp else None
        self.out = nn.Linear(6 if mlp else 5, 4)

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        pooled = feature_map.mean(dim=(2, 3))
        if self.hidden is not None:
            pooled = nn.functional.silu(self.hidden(pooled))
        return self.out(pooled)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.head(self.conv(image).relu()), dim=1)


@pytest.fixture(scope="module", params=[False, True], ids=["linear", "mlp"])
def setting(request: pytest.FixtureRequest) -> tuple[_Tiny, Network, Bank, torch.Tensor]:
    torch.manual_seed(3)
    module = _Tiny(request.param).eval()
    network = TorchNetwork(module, (6, 6))
    images = torch.randn(6, 3, 6, 6)
    activations = network.forward(images)
    embeddings = activations.embedding.numpy()
    labels = np.asarray([0, 0, 0, 1, 1, 1])
    directions = all_triplets(embeddings, labels).values
    pulled = network.pull_back(activations, torch.from_numpy(directions)).numpy()
    bank = Bank(
        embeddings=embeddings,
        grad_weights=pulled,
        grad_index=np.arange(6, dtype=np.int32),
        labels=label_runs(["a", "a", "a", "b", "b", "b"]),
        objective="all-triplets",
    )
    return module, network, bank, torch.randn(3, 3, 6, 6)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _grad_cam(module: _Tiny, images: torch.Tensor, loss: object) -> torch.Tensor:
    """Textbook Grad-CAM: back-propagate minus the loss to the feature map, mean over positions."""
    feature_map = module.conv(images).relu().detach().requires_grad_(True)
    value = -loss(nn.functional.normalize(module.head(feature_map), dim=1))  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(value, feature_map)
    return gradient.mean(dim=(2, 3))


def test_one_triplet_grad_cam_is_textbook_grad_cam_of_the_triplet_loss(setting) -> None:
    module, network, bank, images = setting
    methods = Methods(network, bank)
    question = Question(np.asarray([0, 4, 5]), seed=11)
    found = methods.grad_weights("one_triplet_gradcam", network.forward(images), question)
    generator = np.random.default_rng(11)
    classes = methods.classes
    expected = []
    for number, row in enumerate(question.rows):
        same = classes == classes[row]
        positive = torch.from_numpy(bank.embeddings[generator.choice(np.flatnonzero(same))])
        negative = torch.from_numpy(bank.embeddings[generator.choice(np.flatnonzero(~same))])

        def loss(e: torch.Tensor, p: torch.Tensor = positive, n: torch.Tensor = negative):
            return ((e - p) ** 2).sum() - ((e - n) ** 2).sum()

        expected.append(_grad_cam(module, images[number : number + 1], loss)[0])
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), rtol=1e-4, atol=1e-7)


def test_one_triplet_before_the_normalisation_keeps_the_component_along_the_embedding(
    setting,
) -> None:
    _, network, bank, images = setting
    methods = Methods(network, bank)
    question = Question(np.asarray([0, 4, 5]), seed=11)
    activations = network.forward(images)
    before = methods.grad_weights("one_triplet_before_norm", activations, question)
    through = methods.grad_weights("one_triplet_gradcam", activations, question)
    assert not np.allclose(_unit(before), _unit(through), atol=1e-3)


def test_the_proxy_map_pulls_back_the_normalised_mean_of_the_class(setting) -> None:
    module, network, bank, images = setting
    methods = Methods(network, bank)
    proxy = bank.embeddings[3:].mean(axis=0)
    proxy /= np.linalg.norm(proxy)
    found = methods.grad_weights(
        "proxy_map", network.forward(images), Question(np.asarray([3, 3, 3]), 0)
    )
    feature_map = module.conv(images).relu().detach().requires_grad_(True)
    score = (module.head(feature_map) * torch.from_numpy(proxy)).sum()
    (gradient,) = torch.autograd.grad(score, feature_map)
    np.testing.assert_allclose(found, gradient.mean(dim=(2, 3)).numpy(), rtol=1e-4, atol=1e-7)


def test_the_reference_is_the_own_gradient_of_the_row_direction(setting) -> None:
    module, network, bank, images = setting
    methods = Methods(network, bank)
    rows = np.asarray([1, 2, 4])
    found = methods.grad_weights(REFERENCE, network.forward(images), Question(rows, 0))
    directions = torch.from_numpy(all_triplets(bank.embeddings, methods.classes).values[rows])
    feature_map = module.conv(images).relu().detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad((module.head(feature_map) * directions).sum(), feature_map)
    np.testing.assert_allclose(found, gradient.mean(dim=(2, 3)).numpy(), rtol=1e-4, atol=1e-7)


def test_transfer_equals_its_reference_up_to_scale_for_a_linear_head_only(setting) -> None:
    module, network, bank, images = setting
    methods = Methods(network, bank)
    question = Question(np.asarray([1, 2, 4]), 0)
    activations = network.forward(images)
    ours = _unit(methods.grad_weights(TRANSFERRED, activations, question))
    reference = _unit(methods.grad_weights(REFERENCE, activations, question))
    assert np.allclose(ours, reference, atol=1e-5) == (module.hidden is None)


def test_pulling_through_the_normalisation_is_its_jacobian() -> None:
    torch.manual_seed(0)
    end = torch.randn(4, 5, requires_grad=True)
    directions = torch.randn(4, 5)
    (expected,) = torch.autograd.grad((nn.functional.normalize(end, dim=1) * directions).sum(), end)
    torch.testing.assert_close(through_normalization(end.detach(), directions), expected)


def test_every_method_gives_one_map_per_image_that_is_not_negative(setting) -> None:
    _, network, bank, images = setting
    methods = Methods(network, bank)
    activations = network.forward(images)
    for name in METHODS:
        maps = methods.heatmaps(name, activations, Question(np.asarray([0, 3, 5]), 2))
        assert maps.shape == (3, 6, 6)
        assert maps.min() >= 0


def test_a_weighted_map_is_the_rectified_sum_over_channels() -> None:
    feature_map = np.asarray([[[[1.0, 2.0]], [[3.0, 1.0]]]], np.float32)
    weights = np.asarray([[1.0, -0.5]], np.float32)
    # 1 * 1 - 0.5 * 3 = -0.5 -> 0; 1 * 2 - 0.5 * 1 = 1.5
    np.testing.assert_allclose(weighted(weights, feature_map), [[[0.0, 1.5]]])
