"""Pixel average precision by hand, and what monotone transformations leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foldcam.benchmarks.evaluation.bootstrap import bootstrap_of
from foldcam.benchmarks.evaluation.localization.boxes import box_accuracy, pixel_average_precision

LEFT = (0, 0, 1, 2)  # the left column of an image of 2 x 2


def pixel_ap(heatmap: list[list[float]], box: tuple[float, ...] = LEFT) -> float:
    result = pixel_average_precision([heatmap], [box], (2, 2), resolution=2)
    # Scores here lie more than 0.001 apart, so the binned value must agree.
    assert result.pooled() == pytest.approx(result.per_image[0], abs=1e-6)
    return float(result.per_image[0])


def test_pixel_ap_by_hand() -> None:
    assert pixel_ap([[4, 2], [3, 1]]) == 1.0  # ranks + + - -
    # ranks + - + -: precision 1 and 2/3, half of the recall each.
    assert pixel_ap([[4, 3], [2, 1]]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # ranks - - + +: precision 1/3 and 2/4.
    assert pixel_ap([[2, 4], [1, 3]]) == pytest.approx(0.5 * 1 / 3 + 0.5 * 2 / 4)


def test_tied_pixels_enter_together() -> None:
    # First group: one of two, precision 1/2, recall 1/2. Second: 2/4, the rest.
    assert pixel_ap([[1, 1], [0, 0]]) == 0.5
    assert pixel_ap([[1, 1], [1, 1]]) == 0.5  # chance: the box's share
    assert pixel_ap([[0, 0], [0, 0]]) == 0.5


def test_a_pixel_cut_by_the_border_counts_in_part() -> None:
    # The box holds the left pixels and half of the right ones: weights 1, 1/2, 1, 1/2 of 3.
    # 1 * 1/3 + (1.5 / 2) * (0.5 / 3) + (2.5 / 3) * 1/3 + (3 / 4) * (0.5 / 3) = 31/36
    assert pixel_ap([[4, 3], [2, 1]], (0, 0, 1.5, 2)) == pytest.approx(31 / 36)


def test_pooled_precision_ranks_the_pixels_of_all_images() -> None:
    maps = [[[3, 2], [1, 0]], [[1, 1], [0, 0]]]  # scores 1, 2/3, 1/3, 0 and 1, 1, 0, 0
    result = pixel_average_precision(maps, [LEFT, LEFT], (2, 2), resolution=2)
    # score 1: 2 of 3 pixels lie inside; 2/3: 2 of 4; 1/3: 3 of 5; 0: 4 of 8. Recall of 4:
    # 2/4 * 2/3 + 0 + 1/4 * 3/5 + 1/4 * 4/8 = 73/120
    assert result.pooled() == pytest.approx(73 / 120)
    assert result.mean() == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert result.pooled(np.array([1, 0])) == pytest.approx(73 / 120)
    assert result.pooled(np.array([1, 1])) == pytest.approx(0.5)
    assert result.mean(np.array([0, 0])) == pytest.approx(5 / 6)
    assert bootstrap_of(result.pooled, result.count, draws=20).mean == pytest.approx(73 / 120)


def test_a_box_outside_the_image_is_not_found_and_leaves_the_others_alone() -> None:
    maps = np.array([[[4, 2], [3, 1]]] * 2)
    result = pixel_average_precision(maps, [LEFT, (5, 5, 6, 6)], (2, 2), resolution=2)
    assert result.per_image.tolist() == [1.0, 0.0]
    # Pooled: 1 of 2, 2 of 4 pixels at the two upper scores, each half of the recall.
    assert result.pooled() == pytest.approx(0.5)
    assert pixel_ap([[4, 2], [3, 1]], (5, 5, 6, 6)) == 0.0


def test_a_uniform_map_scores_the_boxs_share_of_the_image() -> None:
    box = (10, 20, 110, 70)  # 100 x 50 of 200 x 100
    result = pixel_average_precision(np.ones((1, 7, 7)), [box], (100, 200))
    assert result.mean() == pytest.approx(0.25)
    assert result.pooled() == pytest.approx(0.25)


def test_pixel_average_precision_refuses() -> None:
    with pytest.raises(ValueError, match=r"\[N, h, w\]"):
        pixel_average_precision(np.ones((2, 2)), [LEFT], (2, 2))
    with pytest.raises(ValueError, match="resolution"):
        pixel_average_precision(np.ones((1, 2, 2)), [LEFT], (2, 2), resolution=-1)


# --- Monotone transformations --------------------------------------------------------------------


@st.composite
def levelled_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Maps [3, 8, 8] of the levels 0 .. 10, all with both ends, and a new value for each level.

    Neighbouring values keep at least 1/200 of the range, so that 8 bits still tell them apart.
    """
    levels = draw(hnp.arrays(np.intp, (3, 8, 8), elements=st.integers(0, 10)))
    levels[:, 0, 0], levels[:, 7, 7] = 0, 10
    gaps = draw(hnp.arrays(np.float64, 10, elements=st.floats(1.0, 20.0)))
    offset = draw(st.floats(0.0, 5.0))
    return levels, np.concatenate([[offset], offset + np.cumsum(gaps)])


@settings(max_examples=40, deadline=None)
@given(levelled_maps())
def test_monotone_transformations_change_neither_pixel_ap_nor_box_accuracy(maps) -> None:  # type: ignore[no-untyped-def]
    levels, values = maps
    boxes = [(1, 1, 5, 4), (0, 0, 8, 3), (4.5, 2, 7, 8)]
    before, after = levels.astype(np.float64), values[levels]
    ap, ap_after = (
        pixel_average_precision(m, boxes, (8, 8), resolution=8) for m in (before, after)
    )
    np.testing.assert_array_equal(ap.per_image, ap_after.per_image)
    assert ap.pooled() == pytest.approx(ap_after.pooled(), rel=1e-9)
    acc, acc_after = (box_accuracy(m, boxes, (8, 8), resolution=8) for m in (before, after))
    assert acc.max_box_acc() == acc_after.max_box_acc()
    assert acc.max_box_acc_v2() == acc_after.max_box_acc_v2()


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.float64, (2, 5, 6), elements=st.floats(0.0, 1.0, width=16)),
    st.sampled_from([0.25, 2.0, 1024.0]),
)
def test_scaling_a_map_changes_nothing_at_any_size(heatmaps: np.ndarray, factor: float) -> None:
    boxes = [(3, 3, 20, 15), (0, 0, 32, 8)]
    ap = pixel_average_precision(heatmaps, boxes, (32, 32), resolution=16)
    scaled = pixel_average_precision(heatmaps * factor, boxes, (32, 32), resolution=16)
    np.testing.assert_array_equal(ap.per_image, scaled.per_image)
    acc = box_accuracy(heatmaps, boxes, (32, 32), resolution=16)
    scaled_acc = box_accuracy(heatmaps * factor, boxes, (32, 32), resolution=16)
    np.testing.assert_array_equal(acc.iou_any, scaled_acc.iou_any)
