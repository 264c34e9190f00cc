"""The kernel estimate and its direction, against autograd of the estimate in the cosines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foldcam.export.banks.objectives import kernel
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.objectives.kernel import KernelObjective, kernel_estimates, parse_kernel
from foldcam.runtime.system.errors import FoldcamError

VALUES = np.array([1, 2, 2, 5, 7, 11, 12, 20, 21, 40], np.float32)


@pytest.fixture
def embeddings():
    values = np.random.default_rng(0).normal(size=(len(VALUES), 6))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def _by_autograd(embeddings, tau):
    """`sum_j dp_i/ds_ij e_j`, the cosines to the other rows as leaves."""
    directions, estimates = [], []
    for row in range(len(VALUES)):
        others = np.delete(np.arange(len(VALUES)), row)
        cosines = torch.from_numpy(embeddings[others].astype(np.float64) @ embeddings[row])
        cosines.requires_grad_(True)
        estimate = torch.softmax(cosines / tau, 0) @ torch.from_numpy(VALUES[others]).double()
        (gradient,) = torch.autograd.grad(estimate, cosines)
        directions.append(gradient.numpy() @ embeddings[others])
        estimates.append(estimate.item())
    return np.stack(directions), np.array(estimates)


@pytest.mark.parametrize("tau", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("block", [1, 30, 1 << 22])
def test_the_direction_is_the_gradient_of_the_leave_one_out_estimate(
    tau, block, embeddings, monkeypatch
):
    monkeypatch.setattr(kernel, "_BLOCK_NUMBERS", block)
    expected, estimates = _by_autograd(embeddings, tau)
    found = KernelObjective("k", tau).directions(embeddings, VALUES)
    norms = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.values, expected / norms, atol=1e-5)
    assert found.values.dtype == np.float32
    assert not found.per_class
    among = kernel_estimates(embeddings, embeddings, VALUES, tau, among=True)
    np.testing.assert_allclose(among, estimates, rtol=1e-6)


def test_the_direction_by_hand():
    # Row 0 sees values 2 and 4 with the same cosine 0: p = 3, v ~ -e_1 + e_2.
    embeddings = np.eye(3, dtype=np.float32)
    found = KernelObjective("k", 0.1).directions(embeddings, np.array([9, 2, 4], np.float32))
    np.testing.assert_allclose(found.values[0], np.array([0, -1, 1]) / np.sqrt(2), atol=1e-6)


def test_the_direction_is_not_orthogonal_to_the_embedding(embeddings):
    # Taken through a normalisation it would be, for every row.
    found = KernelObjective("k", 0.1).directions(embeddings, VALUES).values
    assert np.median(np.abs((found * embeddings).sum(axis=1))) > 0.01


def test_moving_along_the_direction_raises_the_estimate(embeddings):
    found = KernelObjective("k", 0.1).directions(embeddings, VALUES).values
    for row in range(len(VALUES)):
        others = np.delete(np.arange(len(VALUES)), row)
        before, after = (
            kernel_estimates(point[None], embeddings[others], VALUES[others], 0.1)[0]
            for point in (embeddings[row], embeddings[row] + 1e-3 * found[row])
        )
        assert after > before


def test_a_very_cold_kernel_still_has_directions(embeddings):
    # The weight of the second nearest row underflows float32 long before this.
    found = KernelObjective("k", 2e-3).directions(embeddings, VALUES).values
    assert (np.linalg.norm(found, axis=1) > 0.99).sum() >= len(VALUES) - 2  # two share a value
    assert np.isfinite(found).all()


def test_the_whole_table_is_never_held():
    rows, size = 3000, 8
    values = np.random.default_rng(0).normal(size=(rows, size)).astype(np.float32)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    blocks = [
        (block, weights.shape)
        for block, weights in kernel.kernel_weights(unit, unit, 0.1, among=True)
    ]
    assert len(blocks) > 1
    assert max(shape[0] * shape[1] for _, shape in blocks) <= kernel._BLOCK_NUMBERS
    assert [n for block, _ in blocks for n in range(block.start, block.stop)] == list(range(rows))


def test_equal_values_have_no_direction(embeddings):
    with pytest.raises(FoldcamError, match="one value"):
        KernelObjective("k", 0.1).directions(embeddings, np.full(len(VALUES), 3, np.float32))
    with pytest.raises(FoldcamError, match="All images have one value"):
        KernelObjective("k", 0.1).transformed([3.0, 3.0])
    # Different in float64 and equal in the bank's float32.
    with pytest.raises(FoldcamError, match="All images have one value"):
        KernelObjective("k", 0.1).transformed([1e9, 1e9 + 1])


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_value_without_a_logarithm_is_refused(value):
    with pytest.raises(FoldcamError, match=f"{value:g}, which has no logarithm"):
        KernelObjective("k", 0.1, "log").transformed([1.0, value])
    assert KernelObjective("k", 0.1).transformed([1.0, value]).tolist() == [1.0, value]


def test_logarithms_are_what_the_kernel_works_on():
    found = KernelObjective("k", 0.1, "log").transformed([1.0, np.e, np.e**3])
    np.testing.assert_allclose(found, [0, 1, 3], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "tau"), [("kernel", 0.1), ("kernel:tau=0.1", 0.1), ("kernel:tau=2e-2", 0.02)]
)
def test_the_command_line_text_is_read(text, tau):
    assert parse_kernel(text, "log") == KernelObjective(f"kernel:tau={tau:g}", tau, "log")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kernel:tau=0", "temperature"),
        ("kernel:tau=-1", "temperature"),
        ("kernel:tau=nan", "temperature"),
        ("kernel:tau=hot", "temperature"),
        ("kernel:width=3", "temperature"),
        ("all-triplets", "compares labels"),
    ],
)
def test_another_text_is_refused(text, sentence):
    with pytest.raises(FoldcamError, match=sentence):
        parse_kernel(text)


def test_a_kernel_is_no_objective_for_labels():
    with pytest.raises(FoldcamError, match="--continuous"):
        parse_objective("kernel:tau=0.1")
