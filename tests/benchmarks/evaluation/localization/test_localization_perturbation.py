"""Insertion and deletion against curves worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.localization.perturbation import (
    CurvePool,
    PerturbationCurves,
    cell_ranks,
    insertion_deletion,
)

WEIGHTS = np.array([[4.0, 3.0], [2.0, 1.0]]) / 10
ONES, ZEROS = np.ones((1, 2, 2)), np.zeros((1, 2, 2))


def weighted(images: np.ndarray) -> np.ndarray:
    scores: np.ndarray = (images * WEIGHTS).sum(axis=(1, 2, 3))
    return scores


def test_cell_ranks_put_the_hottest_first() -> None:
    assert cell_ranks([[0.1, 0.9], [0.5, 0.3]]).tolist() == [[3, 0], [1, 2]]


def test_tied_cells_are_drawn_after_hotter_ones() -> None:
    heatmap = np.zeros((7, 7))
    heatmap[6, 6] = 1.0
    ranks = cell_ranks(heatmap)
    assert sorted(ranks.ravel().tolist()) == list(range(49))
    assert ranks[6, 6] == 0
    assert (ranks == cell_ranks(heatmap)).all()
    assert (ranks != cell_ranks(heatmap, seed=1)).any()


def test_insertion_and_deletion_by_hand() -> None:
    curves = insertion_deletion(weighted, ONES, ZEROS, cell_ranks(WEIGHTS))
    np.testing.assert_allclose(curves.share, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curves.insertion, [0, 0.4, 0.7, 0.9, 1])
    np.testing.assert_allclose(curves.deletion, [1, 0.6, 0.3, 0.1, 0], atol=1e-15)
    # Trapezoids of width 1/4: (0.2 + 0.55 + 0.8 + 0.95) / 4 and 1 minus that.
    assert curves.insertion_area == pytest.approx(0.625)
    assert curves.deletion_area == pytest.approx(0.375)
    # The worst order: 0, 0.1, 0.3, 0.6, 1, so (0.05 + 0.2 + 0.45 + 0.8) / 4.
    worst = insertion_deletion(weighted, ONES, ZEROS, cell_ranks(-WEIGHTS))
    assert worst.insertion_area == pytest.approx(0.375)
    assert worst.deletion_area == pytest.approx(0.625)


def test_areas_do_not_depend_on_the_scale_of_the_score() -> None:
    curves = insertion_deletion(
        lambda images: 5 + 2 * weighted(images), ONES, ZEROS, cell_ranks(WEIGHTS)
    )
    assert curves.insertion[0] == 5.0
    assert curves.insertion_area == pytest.approx(0.625)
    assert curves.deletion_area == pytest.approx(0.375)


def test_fewer_steps_and_more_steps_than_cells() -> None:
    order = cell_ranks(WEIGHTS)
    # Two cells a step: 0, 0.7, 1, so (0.35 + 0.85) / 2.
    two = insertion_deletion(weighted, ONES, ZEROS, order, steps=2)
    assert two.share.tolist() == [0, 0.5, 1]
    assert two.insertion_area == pytest.approx(0.6)
    one = insertion_deletion(weighted, ONES, ZEROS, order, steps=1)
    assert one.insertion.tolist() == [0, pytest.approx(1)]
    assert one.insertion_area == pytest.approx(0.5)
    many = insertion_deletion(weighted, ONES, ZEROS, order, steps=100)
    assert many.share.tolist() == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("batch_size", [1, 5, 48, 1000])
def test_batches_only_bound_the_calls(batch_size: int) -> None:
    generator = np.random.default_rng(0)
    image = generator.random((3, 10, 9)).astype(np.float32)  # 7 x 7 cells of unequal size
    blurred = np.zeros_like(image)
    order = cell_ranks(generator.random((7, 7)))
    sizes: list[int] = []

    def score(images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.float32
        sizes.append(len(images))
        return np.asarray(images.sum(axis=(1, 2, 3), dtype=np.float64))

    curves = insertion_deletion(score, image, blurred, order, batch_size=batch_size)
    assert len(curves.insertion) == len(curves.deletion) == 50
    assert max(sizes) <= max(batch_size, 2)
    assert sum(sizes) == 2 + 2 * 48
    # A sum is additive: what is shown and what is hidden make up the image at every step.
    np.testing.assert_allclose(curves.insertion + curves.deletion, image.sum(), rtol=1e-5)
    assert (np.diff(curves.insertion) > 0).all()


def test_images_without_channels_and_a_single_cell() -> None:
    curves = insertion_deletion(
        lambda images: images.sum(axis=(1, 2)), np.ones((4, 4)), np.zeros((4, 4)), [[0]]
    )
    assert curves.insertion.tolist() == [0, 16]
    assert curves.deletion.tolist() == [16, 0]


def test_a_grid_that_is_not_square() -> None:
    # One row of three cells on 4 x 6 pixels; only the pixels of the middle cell score.
    def middle(images: np.ndarray) -> np.ndarray:
        return np.asarray(images[:, :, 2:4].sum(axis=(1, 2)))

    curves = insertion_deletion(middle, np.ones((4, 6)), np.zeros((4, 6)), [[1, 0, 2]])
    assert curves.insertion.tolist() == [0, 8, 8, 8]
    assert curves.deletion.tolist() == [8, 0, 0, 0]


def test_an_image_without_evidence_has_no_area_but_pools() -> None:
    flat = insertion_deletion(lambda images: np.zeros(len(images)), ONES, ZEROS, [[0, 1], [2, 3]])
    assert math.isnan(flat.insertion_area)
    assert math.isnan(flat.deletion_area)
    good = insertion_deletion(weighted, ONES, ZEROS, cell_ranks(WEIGHTS))
    assert CurvePool([good, flat]).areas() == pytest.approx((0.625, 0.375))
    assert math.isnan(CurvePool([good, flat]).areas(np.array([1, 1]))[0])


def test_pooled_areas_weigh_images_by_their_range() -> None:
    share = np.array([0.0, 0.5, 1.0])
    a = PerturbationCurves(share, np.array([0.0, 3.0, 3.0]), np.array([3.0, 0.0, 0.0]))
    b = PerturbationCurves(share, np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0]))
    # Mean insertion 0, 1.5, 2: (0.75 + 1.75) / 2 / 2. Mean deletion 2, 0.5, 0: (1.25 + 0.25) / 4.
    assert CurvePool([a, b]).areas() == pytest.approx((0.625, 0.375))
    # Image a alone: (1.5 + 3) / 2 / 3 and (1.5 + 0) / 2 / 3.
    assert CurvePool([a, b]).areas(np.array([0, 0])) == pytest.approx((0.75, 0.25))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blurred": np.zeros((1, 3, 2))}, "share one shape"),
        ({"order": [[0, 1], [2, 2]]}, "cell_ranks"),
        ({"order": [0, 1, 2, 3]}, "cell_ranks"),
        ({"order": WEIGHTS}, "cell_ranks"),  # a heatmap is not a ranking
        ({"order": np.arange(9).reshape(3, 3)}, "does not fit"),
        ({"steps": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"score_fn": lambda images: np.zeros((len(images), 1))}, "one score per image"),
        ({"score_fn": lambda images: np.full(len(images), np.nan)}, "NaN"),
    ],
)
def test_insertion_deletion_refuses(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "score_fn": weighted,
        "image": ONES,
        "blurred": ZEROS,
        "order": [[0, 1], [2, 3]],
    }
    with pytest.raises(ValueError, match=message):
        insertion_deletion(**(arguments | changes))  # type: ignore[arg-type]


def test_pooled_areas_refuse_curves_that_do_not_belong_together() -> None:
    order = cell_ranks(WEIGHTS)
    with pytest.raises(ValueError, match="no curves"):
        CurvePool([]).areas()
    with pytest.raises(ValueError, match="different steps"):
        CurvePool(
            [insertion_deletion(weighted, ONES, ZEROS, order, steps=steps) for steps in (2, 4)]
        )
