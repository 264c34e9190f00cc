"""Regions of frames: what finders may return, and where the heat lands."""

from __future__ import annotations

import json
import time
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldcam.runtime.images.preprocess import Affine
from foldcam.runtime.model.drawing.overlay import heatmap_on_frame
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sources import Frame, open_source
from foldcam.runtime.sources.options import RegionOptions
from foldcam.runtime.sources.regions import Regions, clipped, open_regions
from foldcam.runtime.system.errors import FoldcamError


def frame(width: int = 60, height: int = 40, index: int = 0, **changes) -> Frame:
    image = np.zeros((height, width, 3), np.uint8)
    given = {"name": PurePath("a.png"), "stream": 0, **changes}
    return Frame(image, index, "in", given["name"], 0.0, time.monotonic(), given["stream"])


def test_boxes_are_rounded_clipped_and_dropped_when_nothing_is_left():
    boxes = [
        (1.4, 2.6, 10.2, 10.0),  # 1..12 (11.6 rounds up), 3..13 (12.6)
        (-5, -5, 10, 10),
        (55, 35, 100, 100),
        (60, 0, 5, 5),
        (0, 0, 0, 5),
        (10, 10, -3, 5),
        (2.4, 2.4, 0.05, 5),
    ]
    assert clipped(boxes, 60, 40) == [(1, 3, 11, 10), (0, 0, 5, 5), (55, 35, 5, 5)]


FINITE = st.floats(-1e9, 1e9)


@given(st.lists(st.tuples(FINITE, FINITE, FINITE, FINITE), max_size=20), st.integers(1, 99))
def test_whatever_is_found_can_be_cut_out_of_the_frame(boxes, width):
    for x, y, across, down in clipped(boxes, width, 40):
        assert 0 <= x < x + across <= width
        assert 0 <= y < y + down <= 40
        assert np.zeros((40, width))[y : y + down, x : x + across].size == across * down > 0


def test_dropped_boxes_are_counted():
    regions = Regions(lambda frame: [(0, 0, 5, 5), (90, 90, 5, 5), (1, 1, 0, 0)], "it", 3)
    assert regions(frame()) == [(0, 0, 5, 5)]
    assert regions(frame()) == [(0, 0, 5, 5)]
    assert regions.empty == 4


@pytest.mark.parametrize("nothing", [None, [], np.empty((0, 4)), np.empty(0)])
def test_no_box_is_an_answer(nothing):
    assert Regions(lambda frame: nothing, "it", 1)(frame()) == []


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([(1, 2, 3)], r"It returned an array of shape \[1, 3\]"),
        ((1, 2, 3, 4), r"shape \[4\]"),
        (np.zeros((2, 4, 1)), "shape"),
        ([(0, 0, 5, 5), (0, np.nan, 5, 5)], "not finite in box 1"),
        ([(0, 0, np.inf, 5)], "not finite in box 0"),
        ("boxes", "str that is no array"),
        ([(1, 2, 3, 4), (1, 2)], "no array"),
        ({"x": 1}, "no array"),
    ],
)
def test_what_is_no_box_is_one_sentence(returned, message):
    with pytest.raises(FoldcamError, match=message):
        Regions(lambda frame: returned, "It", 1)(frame())


def test_a_grid_covers_every_pixel_once():
    grid = open_regions(RegionOptions(grid=(7, 3)))
    assert grid.usual == 21
    covered = np.zeros((40, 60), int)
    for x, y, width, height in grid(frame()):
        covered[y : y + height, x : x + width] += 1
    assert (covered == 1).all()


def test_given_boxes_are_the_same_on_every_frame():
    regions = open_regions(RegionOptions(boxes=((1, 2, 3, 4), (50, 30, 90, 90))))
    assert regions(frame()) == [(1, 2, 3, 4), (50, 30, 10, 10)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RegionOptions(grid=(0, 2)), "0 x 2 has no cells"),
        (RegionOptions(boxes=((0, 0, 0, 1),)), "0,0,0,1 has no area"),
        (RegionOptions(grid=(2, 2), detector="a:b"), "as a grid and as a detector"),
        (RegionOptions(detector="nowhere"), "module:function"),
        (RegionOptions(detector="no_such_module_here:f"), "ModuleNotFoundError"),
        (RegionOptions(detector="json:nothing"), "cannot be imported: AttributeError"),
        (RegionOptions(detector="json:__name__"), "is str, not a function"),
    ],
)
def test_regions_that_cannot_be(options, message):
    with pytest.raises(FoldcamError, match=message):
        open_regions(options)


@pytest.fixture
def detectors(tmp_path, monkeypatch):
    """A module of the user's in the working directory."""
    (tmp_path / "my_detectors.py").write_text(
        "import numpy as np\n"
        "class finder:\n"
        "    @staticmethod\n"
        "    def faces(image):\n"
        "        assert image.dtype == np.uint8 and image.shape[2] == 3\n"
        "        return np.array([[0, 0, image.shape[1] / 2, image.shape[0]]])\n"
        "def broken(image):\n"
        "    raise ValueError('no\\nsuch weights')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_detector_of_the_working_directory(detectors):
    regions = open_regions(RegionOptions(detector="my_detectors:finder.faces"))
    assert regions(frame()) == [(0, 0, 30, 40)]


def test_a_detector_that_raises_is_named_in_one_sentence(detectors):
    regions = open_regions(RegionOptions(detector="my_detectors:broken"))
    with pytest.raises(FoldcamError) as caught:
        regions(frame(index=3))
    assert str(caught.value) == (
        "The detector my_detectors:broken failed on frame 3 of in: ValueError: no such weights."
    )


def test_a_file_of_boxes(tmp_path):
    path = tmp_path / "boxes.jsonl"
    lines = [
        {"frame": 2, "boxes": [[0, 0, 5, 5], [1, 1, 2, 2]]},
        {"name": "owls/3.jpg", "boxes": [[7, 7, 3, 3]]},
        {"frame": 2, "stream": 1, "boxes": []},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    regions = open_regions(RegionOptions(file=str(path)))
    assert regions.usual == 2
    assert regions(frame(index=2)) == [(0, 0, 5, 5), (1, 1, 2, 2)]
    assert regions(frame(index=0, name=PurePath("owls/3.jpg"))) == [(7, 7, 3, 3)]
    assert regions(frame(index=2, stream=1)) == []
    assert regions(frame(index=1)) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2: not JSON"),
        ("[]", "line 2 is a list"),
        ('{"boxes": []}', "frame is missing"),
        ('{"frame": 1}', "boxes is missing"),
        ('{"frame": -1, "boxes": []}', "frame is -1"),
        ('{"frame": 1, "boxes": [[1, 2, 3]]}', r"boxes\[0\] has 3 values where 4"),
        ('{"frame": 1, "boxes": [[1, 2, 3, NaN]]}', "not finite"),
        ('{"frame": 0, "boxes": []}', "0 has a line already"),
        ("[" * 5000, "not JSON"),
    ],
)
def test_a_broken_file_of_boxes_is_named_by_line_and_key(tmp_path, line, message):
    path = tmp_path / "boxes.jsonl"
    path.write_text('{"frame": 0, "boxes": []}\n' + line + "\n")
    with pytest.raises(FoldcamError, match=message):
        open_regions(RegionOptions(file=str(path)))


def test_a_file_of_boxes_that_is_not_there(tmp_path):
    with pytest.raises(FoldcamError, match="cannot be read"):
        open_regions(RegionOptions(file=str(tmp_path / "none.jsonl")))


# Painting. The network's input is 8 x 8, its heatmap 2 x 2: each quarter has its own red.


class Kept:
    name, may_skip, output = "kept", False, None

    def __init__(self) -> None:
        self.items: list = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, item):
        self.items.append(item)


def go(path, image, boxes, **flow):
    """The results of one picture's regions."""
    from foldcam.runtime.images.files import write_image
    from foldcam.runtime.sources.options import FlowOptions

    write_image(path.parent / "one.png", image)
    kept = Kept()
    with FoldedModel.load(path, "cpu", 1) as model:
        run(
            open_source(str(path.parent / "one.png")),
            model,
            [kept],
            regions=RegionOptions(boxes=tuple(boxes)),
            flow=FlowOptions(**flow),
        )
    (item,) = kept.items
    return item


@pytest.mark.parametrize("rule", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("box", [(6, 4, 16, 8), (6, 4, 8, 24), (0, 0, 30, 40), (11, 5, 7, 13)])
def test_a_region_is_painted_as_its_own_picture_would_be(make_model, contract_with, rule, box):
    """The same heat in the box as the cut-out picture gets by itself, and none beside it."""
    path = make_model(contract=contract_with(resize=rule))
    image = np.random.default_rng(3).integers(0, 256, (40, 30, 3), np.uint8)
    x, y, width, height = box
    with FoldedModel.load(path, "cpu", 1) as model:
        alone = model(np.ascontiguousarray(image[y : y + height, x : x + width]))
    item = go(path, image, [box])
    (result,) = item.results
    np.testing.assert_array_equal(result.heatmap, alone.heatmap)
    assert (result.box, result.frame_wh) == (box, (30, 40))
    assert result.affine.scale_x == alone.affine.scale_x
    assert result.affine.offset_x == alone.affine.offset_x + x
    assert result.affine.offset_y == alone.affine.offset_y + y
    painted = result.heat_on_frame()
    own = heatmap_on_frame(alone.heatmap, alone.affine, alone.input_wh, alone.frame_wh)
    np.testing.assert_allclose(painted[y : y + height, x : x + width], own, atol=1e-6)
    beside = painted.copy()
    beside[y : y + height, x : x + width] = 0
    assert not beside.any()
    np.testing.assert_array_equal(item.heat, painted)


def test_exact_heat_of_a_region_under_a_letterbox(make_model, contract_with):
    """A box of 8 x 4 fills rows 2 to 5 of the 8 x 8 input: its halves, mixed with padding."""
    path = make_model(contract=contract_with(resize="letterbox", mean=(0.0, 0.0, 0.0)))
    image = np.zeros((20, 20, 3), np.uint8)
    image[10:14, 6:10, 0] = 200
    image[10:14, 10:14, 0] = 100
    item = go(path, image, [(6, 10, 8, 4)])
    (result,) = item.results
    # Each quarter of the input is half padding, so the columns keep their ratio of 2 to 1.
    np.testing.assert_allclose(result.heatmap, [[1, 0.5], [1, 0.5]], atol=1e-6)
    # One pixel of the input is one of the frame; row 0 of the input would be row 8 of it.
    assert result.affine == (1.0, 1.0, 6.0, 8.0)
    # The cells' border lies at x = 10; around it heat falls off as it does without a letterbox.
    whole = heatmap_on_frame(np.array([[1.0, 0.5]], np.float32), Affine(1, 1, 0, 0), (8, 8), (8, 4))
    np.testing.assert_allclose(item.heat[10:14, 6:14], whole, atol=1e-6)
    assert item.heat[12, 6] == 1.0
    assert item.heat[12, 13] == 0.5
    assert not item.heat[8:10].any()
    assert not item.heat[14:16].any()
    assert result.hottest() == (8.0, 10.0)


def test_the_hottest_place_stays_within_its_region(make_model, contract_with):
    """The centre of a cell of a letterbox may lie in the padding, which belongs to others."""
    path = make_model(contract=contract_with(resize="letterbox", mean=(0.0, 0.0, 0.0)))
    image = np.zeros((40, 40, 3), np.uint8)
    image[20:22, 10:26, 0] = 200
    (result,) = go(path, image, [(10, 20, 16, 2)]).results
    x, y = result.hottest()
    assert 10 <= x <= 26
    assert 20 <= y <= 22


def test_more_regions_than_a_batch_holds_are_split_and_stay_together(tiny_model, tmp_path):
    import shutil

    path = tmp_path / "m.onnx"
    shutil.copy(tiny_model, path)
    image = np.zeros((8, 70, 3), np.uint8)
    for number in range(7):
        image[:, 10 * number : 10 * number + 10, number % 3] = 200
    boxes = [(10 * number, 0, 10, 8) for number in range(7)]
    for batch in (1, 2, 3, 7, 20):
        item = go(path, image, boxes, batch=batch)
        assert [result.labels[0] for result in item.results] == [
            ("red", "green", "blue")[number % 3] for number in range(7)
        ]
        assert [result.box for result in item.results] == boxes


def test_frames_without_regions_go_on_in_order(tiny_model, video):
    kept = Kept()
    regions = Regions(lambda frame: [(0, 0, 8, 8)] * (frame.index % 3), "every third has none", 2)
    with FoldedModel.load(tiny_model) as model:
        summary = run(open_source(str(video(frames=20))), model, [kept], regions=regions)
    assert [item.frame.index for item in kept.items] == list(range(20))
    assert [len(item.results) for item in kept.items] == [index % 3 for index in range(20)]
    assert summary.frames == 20
    assert sum(summary.labels.values()) == sum(index % 3 for index in range(20))
    assert not kept.items[0].heat.any()


def test_a_plain_function_gets_the_regions_too(tiny_model, photo):
    kept = Kept()
    with FoldedModel.load(tiny_model) as model:
        run(
            open_source(str(photo("a.png"))),
            lambda image: model(image),
            [kept],
            regions=RegionOptions(grid=(3, 2)),
        )
    results = kept.items[0].results
    assert [result.box for result in results][:2] == [(0, 0, 20, 20), (20, 0, 20, 20)]
    assert results[1].affine.offset_x == 20
