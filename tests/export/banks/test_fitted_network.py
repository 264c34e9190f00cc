"""The linear map that stands in for a head without a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foldcam.export.banks.fitted_network import Moments, fit_head
from foldcam.export.banks.grad_weights import head_traits
from foldcam.export.datasets import load_dataset
from foldcam.runtime.system.errors import FoldcamError


def test_the_moments_give_the_regression_of_all_rows_at_once():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 4)) + 3
    weights, intercept = generator.normal(size=(2, 4)), np.array([1.0, -2.0])
    y = x @ weights.T + intercept
    parts = [Moments(4, 2) for _ in range(2)]
    parts[0].add(x[:7], y[:7])
    parts[1].add(x[7:], y[7:])
    found = (parts[0] + parts[1]).ridge_regression(1e-12)
    np.testing.assert_allclose(found[0], weights, atol=1e-8)
    np.testing.assert_allclose(found[1], intercept, atol=1e-7)


def test_the_share_explained_is_one_minus_error_over_variance():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30, 3)), generator.normal(size=(30, 2)) + 5
    weights, intercept = generator.normal(size=(2, 3)), generator.normal(size=2)
    moments = Moments(3, 2)
    moments.add(x, y)
    error = ((y - x @ weights.T - intercept) ** 2).sum()
    expected = 1 - error / ((y - y.mean(0)) ** 2).sum()
    assert moments.explained(weights, intercept) == pytest.approx(expected)
    assert moments.explained(np.zeros((2, 3)), y.mean(0)) == pytest.approx(0, abs=1e-12)


def test_a_linear_head_is_found_again(networks, cut, preprocessing, photo_folder):
    """z = W mean(A) + b: the fitted grad-weights are those of the gradient."""
    network = cut("PlainConv")
    fitted = fit_head(network, preprocessing, load_dataset(photo_folder).samples)
    assert fitted.explained > 0.99
    images, directions = torch.randn(4, 3, *networks.SIZE), torch.randn(4, 3)
    activations = fitted.forward(images)
    exact = network.pull_back(activations, directions)
    found = fitted.pull_back(activations, directions)
    cosines = torch.nn.functional.cosine_similarity(exact, found)
    assert cosines.min() > 0.98
    assert fitted.sha256() == network.sha256()
    torch.testing.assert_close(activations.embedding, network.forward(images).embedding)
    again = fitted.embed_map(activations, activations.feature_map)
    torch.testing.assert_close(again, activations.embedding)


def test_the_fitted_head_is_linear_and_blind_to_position(
    networks, cut, preprocessing, photo_folder
):
    fitted = fit_head(cut("FlattenHead"), preprocessing, load_dataset(photo_folder).samples)
    traits = head_traits(fitted, fitted.forward(torch.randn(4, 3, *networks.SIZE)))
    assert traits.linear
    assert not traits.positional
    assert any("--head fitted" in note for note in fitted.notes)


def test_too_few_images_are_refused(cut, preprocessing, photo_folder):
    samples = load_dataset(photo_folder).samples
    with pytest.raises(FoldcamError, match="at least 10 readable training images and got 9"):
        fit_head(cut("PlainConv"), preprocessing, samples[:9])


@pytest.fixture(scope="module")
def photo_folder(tmp_path_factory):
    """Two class folders with thirty images of flat colour patches each."""
    import cv2

    root = tmp_path_factory.mktemp("many") / "photos"
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(30):
            patches = generator.integers(0, 256, (3, 4, 3), np.uint8)
            image = cv2.resize(patches, (24, 20), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(root / label / f"{number}.png"), image)
    return root
