"""MaxBoxAcc and MaxBoxAccV2 against cases worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from foldcam.benchmarks.evaluation.bootstrap import bootstrap_of, paired_bootstrap_of
from foldcam.benchmarks.evaluation.localization.boxes import FrozenLevels, box_accuracy
from foldcam.benchmarks.evaluation.localization.metrics import resize_bilinear, unit_range


def two_objects() -> np.ndarray:
    """A small hot object (box 1, 1, 4, 4) and a large one half as hot (box 5, 5, 10, 10)."""
    heatmap = np.zeros((10, 10))
    heatmap[1:4, 1:4] = 1.0
    heatmap[5:10, 5:10] = 0.5
    return heatmap


SMALL, LARGE = (1, 1, 4, 4), (5, 5, 10, 10)


def test_the_sweep_of_1000_thresholds_reaches_exactly_the_255_levels() -> None:
    assert {int(t * 255) for t in np.arange(0, 1, 0.001)} == set(range(255))


def test_box_accuracy_by_hand() -> None:
    # floor(0.5 * 255) = 127, so the large object is in the masks grey > 0 .. grey > 126 and is
    # the largest contour there; from level 127 the small one is alone.
    accuracy = box_accuracy([two_objects()] * 2, [SMALL, LARGE], (10, 10), resolution=10)
    assert accuracy.count == 2
    assert accuracy.iou_largest.shape == accuracy.iou_any.shape == (2, 255)
    np.testing.assert_array_equal(accuracy.iou_largest[0], [0.0] * 127 + [1.0] * 128)
    np.testing.assert_array_equal(accuracy.iou_largest[1], [1.0] * 127 + [0.0] * 128)
    np.testing.assert_array_equal(accuracy.iou_any[0], [1.0] * 255)
    np.testing.assert_array_equal(accuracy.iou_any[1], [1.0] * 127 + [0.0] * 128)
    # No threshold serves both images by the largest contour; any below 127 does by any contour.
    assert accuracy.max_box_acc() == 0.5
    assert accuracy.max_box_acc_v2() == 1.0


def test_thresholds_are_frozen_on_one_split_and_used_on_another() -> None:
    chosen = box_accuracy([two_objects()], [LARGE], (10, 10), resolution=10).best_levels()
    # Levels 0 .. 126 are equally good: the middle one, for all three IoUs.
    assert chosen.largest == 63
    assert chosen.any_contour == (63, 63, 63)
    other = box_accuracy([two_objects()], [SMALL], (10, 10), resolution=10)
    assert other.max_box_acc() == 1.0
    assert other.box_acc_at(chosen) == 0.0
    assert other.box_acc_v2_at(chosen) == 1.0


@pytest.mark.parametrize(
    ("box", "iou", "v2"),
    [
        ((2, 2, 6, 6), 1.0, 1.0),
        ((2, 2, 7, 6), 16 / 20, 1.0),  # one column more: 16 / 20 = 0.8
        ((2, 2, 6, 10), 16 / 32, 2 / 3),  # 0.5 exactly counts; 0.7 is missed
        ((2, 2, 6, 99), 16 / 32, 2 / 3),  # what lies beyond the image is cut off
        ((2, 2, 6, 10.0 + 1e-9), 16 / 32, 2 / 3),
        ((1.9, 2, 6, 10), 16 / 32.8, 1 / 3),  # 0.488 is below 0.5
        ((3, 3, 4, 4), 1 / 16, 0.0),  # one pixel
        ((20, 20, 30, 30), 0.0, 0.0),
    ],
)
def test_iou_is_exact_for_half_open_boxes(box: tuple[float, ...], iou: float, v2: float) -> None:
    heatmap = np.zeros((10, 10))
    heatmap[2:6, 2:6] = 1.0
    accuracy = box_accuracy([heatmap], [box], (10, 10), resolution=10)
    np.testing.assert_allclose(accuracy.iou_largest[0], iou)
    assert accuracy.max_box_acc_v2() == pytest.approx(v2)
    assert accuracy.max_box_acc() == (v2 > 0.5)  # IoU >= 0.5 passes two of the three levels
    # The same in an image twice as large.
    doubled = box_accuracy([heatmap], [np.multiply(box, 2)], (20, 20), resolution=10)
    np.testing.assert_allclose(doubled.iou_largest, accuracy.iou_largest)


def test_a_mask_at_the_border_and_a_mask_of_one_pixel() -> None:
    heatmaps = np.zeros((2, 10, 10))
    heatmaps[0, 6:, 7:] = 1.0
    heatmaps[1, 9, 9] = 1.0
    accuracy = box_accuracy(heatmaps, [(7, 6, 10, 10), (9, 9, 10, 10)], (10, 10), resolution=10)
    assert (accuracy.iou_largest == 1.0).all()


def test_contours_of_holes_count_as_in_the_reference() -> None:
    heatmap = np.zeros((12, 12))
    heatmap[1:10, 1:10] = 1.0
    heatmap[3:8, 3:8] = 0.0
    # The hole's contour runs on the ring's own pixels, one outside the hole: box 2, 2, 9, 9.
    accuracy = box_accuracy([heatmap], [(2, 2, 9, 9)], (12, 12), resolution=12)
    np.testing.assert_allclose(accuracy.iou_any[0], 1.0)
    np.testing.assert_allclose(accuracy.iou_largest[0], 49 / 81)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_flat_map_finds_nothing(value: float) -> None:
    accuracy = box_accuracy(np.full((1, 7, 7), value), [(0, 0, 224, 224)], (224, 224))
    assert accuracy.max_box_acc() == 0.0
    assert accuracy.max_box_acc_v2() == 0.0


def test_skipping_thresholds_gives_what_the_whole_sweep_gives() -> None:
    generator = np.random.default_rng(1)
    heatmaps = np.maximum(generator.normal(size=(3, 7, 7)), 0.0)
    box = np.array([4.0, 6.0, 20.0, 25.0])
    accuracy = box_accuracy(heatmaps, [box] * 3, (32, 32), resolution=32)
    for i, heatmap in enumerate(heatmaps):
        grey = (unit_range(resize_bilinear(heatmap, (32, 32))) * 255).astype(np.uint8)
        for threshold in np.arange(0, 1, 0.001):
            level = int(threshold * grey.max())
            mask = (grey > level).astype(np.uint8)
            contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
            ious = []
            for contour in contours:
                x, y, w, h = cv2.boundingRect(contour)
                wide = max(0.0, min(x + w, box[2]) - max(x, box[0]))
                high = max(0.0, min(y + h, box[3]) - max(y, box[1]))
                ious.append(wide * high / (w * h + 16.0 * 19.0 - wide * high))
            largest = max(range(len(contours)), key=lambda k: cv2.contourArea(contours[k]))
            assert accuracy.iou_largest[i, level] == pytest.approx(ious[largest])
            assert accuracy.iou_any[i, level] == pytest.approx(max(ious))


def test_resampled_box_accuracy() -> None:
    accuracy = box_accuracy([two_objects()] * 2, [SMALL, LARGE], (10, 10), resolution=10)
    # Twice image 0 and once image 1: the levels from 127 serve two of three.
    indices = np.array([0, 1, 0])
    assert accuracy.max_box_acc(indices) == pytest.approx(2 / 3)
    assert accuracy.max_box_acc(np.arange(2)) == accuracy.max_box_acc()
    assert accuracy.max_box_acc_v2(np.array([1, 1])) == 1.0
    # Two images: both alike with probability 1/2 (accuracy 1), one of each else (0.5).
    interval = bootstrap_of(accuracy.max_box_acc, accuracy.count, draws=200)
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 1.0)
    same = paired_bootstrap_of(accuracy.max_box_acc_v2, accuracy.max_box_acc_v2, 2, draws=50)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_box_accuracy_refuses() -> None:
    with pytest.raises(ValueError, match="drop the channel axis"):
        box_accuracy(np.zeros((1, 1, 7, 7)), [SMALL], (10, 10))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        box_accuracy(np.zeros((2, 7, 7)), [SMALL], (10, 10))
    with pytest.raises(ValueError, match="box 1 is"):
        box_accuracy(np.zeros((2, 7, 7)), [SMALL, (4, 4, 4, 5)], (10, 10))
    with pytest.raises(ValueError, match="resolution"):
        box_accuracy(np.zeros((1, 7, 7)), [SMALL], (10, 10), resolution=0)
    accuracy = box_accuracy([two_objects()], [SMALL], (10, 10), resolution=10)
    with pytest.raises(ValueError, match="zip"):
        accuracy.box_acc_v2_at(FrozenLevels(largest=0, any_contour=(0,)))
