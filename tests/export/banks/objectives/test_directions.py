"""Directions, against sums over the very comparisons they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foldcam.export.banks.objectives.directions import (
    all_triplets,
    parse_objective,
    sampled_triplets,
)
from foldcam.runtime.system.errors import FoldcamError

LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
LOSSES = [
    "pml:TripletMarginLoss:margin=0.5",
    "pml:ContrastiveLoss",
    "pml:MultiSimilarityLoss",
    "pml:NTXentLoss",
    "pml:CircleLoss",
    "pml:SupConLoss",
    "pml:MarginLoss",
]


@pytest.fixture
def embeddings():
    values = np.random.default_rng(0).normal(size=(len(LABELS), 6))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def _cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_all_triplets_is_half_the_mean_over_every_triplet_by_autograd(embeddings):
    expected = np.zeros_like(embeddings)
    e = torch.from_numpy(embeddings)
    for anchor, label in enumerate(LABELS):
        a = e[anchor].clone().requires_grad_(True)
        losses = [
            (a - p).square().sum() - (a - n).square().sum()
            for p in e[label == LABELS]  # the anchor's own copy is one of its positives
            for n in e[label != LABELS]
        ]
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), a)
        expected[anchor] = -gradient.numpy()
    found = all_triplets(embeddings, LABELS)
    np.testing.assert_allclose(found.values, expected / 2, atol=1e-6)
    assert found.per_class
    assert found.fallback_rows == 0


def test_all_triplets_by_hand():
    embeddings = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    found = all_triplets(embeddings, np.array([0, 0, 1])).values
    np.testing.assert_array_equal(found, [[1, -1], [1, -1], [-1, 1]])


def test_sampled_triplets_converge_to_all_of_them_without_the_anchor(embeddings):
    found = sampled_triplets(embeddings, LABELS, 200_000, seed=0).values
    for row, label in enumerate(LABELS):
        others = np.delete(
            embeddings[label == LABELS], list(np.flatnonzero(label == LABELS)).index(row), 0
        )
        expected = others.mean(0) - embeddings[label != LABELS].mean(0)
        np.testing.assert_allclose(found[row], expected, atol=0.01)


def test_a_sampled_positive_is_never_the_anchor():
    embeddings = np.eye(4, dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    found = sampled_triplets(embeddings, labels, 1, seed=3).values
    # With two images per class the positive is always the other one.
    assert found[0, 1] == found[1, 0] == found[2, 3] == found[3, 2] == 1
    assert found[0, 0] == found[1, 1] == found[2, 2] == found[3, 3] == 0


def test_sampled_triplets_depend_on_the_seed_alone(embeddings):
    first, same, other = (sampled_triplets(embeddings, LABELS, 5, seed=s).values for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_an_anchor_alone_in_its_class_falls_back(embeddings):
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 2])
    found = sampled_triplets(embeddings, labels, 5, seed=0)
    assert found.fallback_rows == 1
    np.testing.assert_array_equal(found.values[9], all_triplets(embeddings, labels).values[9])


@pytest.mark.parametrize("text", ["all-triplets", "sampled:50", *LOSSES])
def test_no_direction_is_orthogonal_to_its_embedding(text, embeddings):
    found = parse_objective(text).directions(embeddings, LABELS).values
    assert found.shape == embeddings.shape
    assert np.isfinite(found).all()
    # A loss that normalises inside gives exactly zero here, up to rounding.
    assert np.abs(_cosines(found, embeddings)).max() > 0.1
    assert np.median(np.abs(_cosines(found, embeddings))) > 0.01


def _by_hand(embeddings, loss_of_row):
    """`v_i = -sum_j dL/ds_ij e_j` with the cosines as leaves."""
    directions = []
    for row in range(len(LABELS)):
        s = torch.from_numpy(embeddings @ embeddings[row]).requires_grad_(True)
        same = torch.from_numpy(LABELS[row] == LABELS)
        positives = same.clone()
        positives[row] = False
        (gradient,) = torch.autograd.grad(loss_of_row(s, positives, ~same), s)
        directions.append(-gradient.numpy() @ embeddings)
    return np.stack(directions)


def _triplet(s, positives, negatives):
    return torch.relu(s[negatives][:, None] - s[positives][None, :] + 0.5).sum()


def _multi_similarity(s, positives, negatives):
    alpha, beta, base = 2.0, 50.0, 0.5
    return (
        torch.log1p(torch.exp(-alpha * (s[positives] - base)).sum()) / alpha
        + torch.log1p(torch.exp(beta * (s[negatives] - base)).sum()) / beta
    )


def _ntxent(s, positives, negatives):
    logits = s / 0.07
    pull = [
        -p + torch.logsumexp(torch.cat([p[None], logits[negatives]]), 0) for p in logits[positives]
    ]
    return torch.stack(pull).sum()


def _contrastive(s, positives, negatives):
    pull, push = torch.relu(1 - s[positives]), torch.relu(s[negatives])
    return pull.sum() / (pull > 0).sum() + push.sum() / (push > 0).sum().clamp(min=1)


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("pml:TripletMarginLoss:margin=0.5", _triplet),
        ("pml:MultiSimilarityLoss", _multi_similarity),
        ("pml:NTXentLoss", _ntxent),
        ("pml:ContrastiveLoss", _contrastive),
    ],
)
def test_a_metric_learning_loss_is_differentiated_by_its_cosines(text, loss, embeddings):
    found = parse_objective(text).directions(embeddings, LABELS)
    assert found.fallback_rows == 0
    assert not found.per_class
    expected = _by_hand(embeddings, loss)
    np.testing.assert_allclose(_cosines(found.values, expected), 1, atol=1e-4)


@pytest.mark.parametrize("text", LOSSES)
def test_a_direction_depends_on_its_own_comparisons_alone(text, embeddings):
    """The rows' order says nothing, so nothing may leak from one anchor to another."""
    order = np.random.default_rng(1).permutation(len(LABELS))
    found = parse_objective(text).directions(embeddings, LABELS).values
    shuffled = parse_objective(text).directions(embeddings[order], LABELS[order]).values
    np.testing.assert_allclose(_cosines(found[order], shuffled), 1, atol=1e-4)


def test_rows_that_a_margin_leaves_without_gradient_fall_back_and_are_counted():
    embeddings = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0.6, 0.8]], np.float32)
    labels = np.array([0, 0, 1, 1])
    # s_p - s_n is 1 for the first class (satisfied) and 0.6 for the second (not).
    found = parse_objective("pml:TripletMarginLoss:margin=0.8").directions(embeddings, labels)
    everything = all_triplets(embeddings, labels).values
    assert found.fallback_rows == 2
    np.testing.assert_array_equal(found.values[:2], everything[:2])
    np.testing.assert_allclose(
        _cosines(found.values[2:3], np.array([[-1, 0.6, 0.8]])), 1, atol=1e-6
    )


@pytest.mark.parametrize("text", ["all-triplets", "sampled:5", "pml:TripletMarginLoss"])
def test_one_class_alone_is_refused(text, embeddings):
    with pytest.raises(FoldcamError, match="All images have one label"):
        parse_objective(text).directions(embeddings, np.zeros(len(embeddings), np.int64))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("triplets", "is unknown"),
        ("all-triplets:3", "is unknown"),
        ("sampled", "sampled:50"),
        ("sampled:0", "sampled:50"),
        ("sampled:-3", "sampled:50"),
        ("pml:NoSuchLoss", "no loss 'NoSuchLoss'"),
        ("pml:__class__", "no loss"),
        ("pml:ProxyAnchorLoss", "cannot be made"),
        ("pml:ArcFaceLoss:num_classes=3:embedding_size=6", "cannot be made|weights of its own"),
        ("pml:SubCenterArcFaceLoss", "cannot be made"),
        ("pml:AngularLoss", "LpDistance"),
        ("pml:NCALoss", "compares the anchors"),
        ("pml:TripletMarginLoss:margin", "not name=number"),
        ("pml:TripletMarginLoss:nonsense=1", "cannot be made"),
    ],
)
def test_an_objective_that_cannot_be_used_is_refused(text, sentence):
    with pytest.raises(FoldcamError, match=sentence):
        parse_objective(text)


@pytest.mark.parametrize("text", ["pml:HistogramLoss", "pml:NPairsLoss", "pml:PNPLoss"])
def test_a_loss_that_needs_a_whole_batch_is_refused_when_used(text, embeddings):
    with pytest.raises(FoldcamError, match="cannot be computed from pairs"):
        parse_objective(text).directions(embeddings, LABELS)


def test_the_proxy_points_to_the_normalised_mean_of_its_class():
    embeddings = np.asarray([[1, 0], [0, 1], [-1, 0]], np.float32)
    found = parse_objective("proxy").directions(embeddings, np.asarray([0, 0, 1]))
    half = np.sqrt(0.5)
    assert found.per_class
    np.testing.assert_allclose(found.values, [[half, half], [half, half], [-1, 0]], atol=1e-6)


def test_a_miner_chooses_which_triplets_count():
    # Row 0 with its positive, row 1: cosine 0.8. Negatives: row 2 at 0.6, row 3 at -1.
    embeddings = np.asarray([[1, 0], [0.8, 0.6], [0.6, -0.8], [-1, 0]], np.float32)
    labels = np.asarray([0, 0, 1, 1])
    text = "pml:TripletMarginLoss:margin=5+TripletMarginMiner:margin=0.5"
    found = parse_objective(text).directions(embeddings, labels)
    # Only (0, 1, 2) lies within 0.5: v = p - n.
    np.testing.assert_allclose(found.values[0], embeddings[1] - embeddings[2], atol=1e-5)
    unmined = parse_objective("pml:TripletMarginLoss:margin=5").directions(embeddings, labels)
    both = embeddings[1] - embeddings[2:].mean(axis=0)
    np.testing.assert_allclose(unmined.values[0], both, atol=1e-5)


@pytest.mark.parametrize("text", ["pml:TripletMarginLoss+NoMiner", "pml:TripletMarginLoss+"])
def test_a_miner_that_does_not_exist_is_refused(text):
    with pytest.raises(FoldcamError, match="no miner"):
        parse_objective(text)
