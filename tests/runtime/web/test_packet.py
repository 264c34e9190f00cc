"""What a browser gets for a frame."""

from __future__ import annotations

import json
import struct

import cv2
import numpy as np
import pytest

from foldcam.runtime.images.preprocess import Affine, Preprocessing
from foldcam.runtime.model.drawing.overlay import heatmap_on_frame
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.web.packet import LONGEST_SIDE, encode_packet


def parse(data: bytes):
    """Header, decoded picture, maps: as connection.js reads them."""
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    at = 4 + length
    jpeg = np.frombuffer(data[at : at + header["picture"]], np.uint8)
    at += header["picture"]
    maps = []
    for one in header["maps"]:
        size = one["rows"] * one["columns"]
        cells = np.frombuffer(data, np.uint8, size, at).reshape(one["rows"], one["columns"])
        maps.append(cells)
        at += size
    assert at == len(data)
    return header, cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1], maps


def test_picture_and_heat_travel_apart(make_item):
    header, picture, maps = parse(encode_packet(make_item(7, stream=1)))
    assert (header["stream"], header["number"]) == (1, 7)
    assert picture.shape == (48, 64, 3)
    # The photograph itself, without heat: JPEG is off by a little.
    assert abs(picture.astype(int) - [40, 80, 120]).max() <= 3
    assert maps[0].tolist() == [[255, 128], [0, 64]]
    assert header["results"][0]["answer"] == "red"
    assert header["results"][0]["neighbors"][0] == {
        "row": 2, "label": "red", "similarity": 0.899999976,
    }  # fmt: skip
    assert "embedding" not in header["results"][0]


def test_the_encoded_header_says_when_the_frame_was_captured(make_item):
    item = make_item()
    header, _, _ = parse(encode_packet(item))
    assert header["captured"] == item.frame.captured
    assert header["encoded"] >= header["captured"]


def test_a_large_picture_is_made_smaller_and_a_small_one_is_not(make_item):
    _, picture, _ = parse(encode_packet(make_item(size=(1920, 1080))))
    assert picture.shape == (540, LONGEST_SIDE, 3)
    _, picture, _ = parse(encode_packet(make_item(size=(3, 2000))))
    assert picture.shape == (960, 1, 3)


@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
def test_the_place_of_a_map_is_that_of_the_preprocessing(resize, make_item):
    frame = np.zeros((60, 200, 3), np.uint8)
    _, affine = Preprocessing(80, 80, resize).resized(frame)
    item = make_item(size=(200, 60), affine=affine, input_wh=(80, 80))
    header, _, _ = parse(encode_packet(item))
    x, y, across, down = header["maps"][0]["place"]
    expected = {
        "stretch": (0, 0, 1, 1),
        "crop": (70 / 200, 0, 60 / 200, 1),
        "letterbox": (0, -70 / 60, 1, 200 / 60),
    }[resize]
    assert (x, y, across, down) == pytest.approx(expected, abs=1e-5)
    assert header["maps"][0]["clip"] == [0, 0, 1, 1]


def test_a_region_is_clipped_to_its_box(make_item):
    item = make_item(size=(200, 100), box=(50, 20, 100, 60))
    header, _, _ = parse(encode_packet(item))
    assert header["maps"][0]["clip"] == [0.25, 0.2, 0.5, 0.6]
    assert header["results"][0]["box"] == {"x": 50, "y": 20, "width": 100, "height": 60}


def test_what_lowers_an_estimate_is_a_map_of_its_own(make_item):
    lower = np.array([[0.0, 1.0]], np.float32)
    item = make_item(labels=[], estimate=12345.6, heatmap_lower=lower)
    header, _, maps = parse(encode_packet(item))
    assert [one["lower"] for one in header["maps"]] == [False, True]
    assert maps[1].tolist() == [[0, 255]]
    assert header["results"][0]["answer"] == "12,350"
    assert "label" not in header["results"][0]["neighbors"][0]


def test_heat_that_is_no_number_is_cold_and_json_stays_json(make_item):
    heat = np.array([[np.nan, np.inf], [-np.inf, 2.0]], np.float32)
    item = make_item(
        heatmap=heat, similarities=np.array([np.nan, 0.1], np.float32), estimate=float("nan"),
        labels=[],
    )  # fmt: skip
    header, _, maps = parse(encode_packet(item))
    assert maps[0].tolist() == [[0, 255], [0, 255]]
    assert header["results"][0]["neighbors"][0]["similarity"] is None


def test_many_or_large_maps_stay_small(make_item):
    large = make_item(heatmap=np.ones((512, 512), np.float32), input_wh=(512, 512))
    assert parse(encode_packet(large))[2][0].shape == (256, 256)
    one = large.results[0]
    crowd = FrameResults(large.frame, [one] * 100)
    header, _, maps = parse(encode_packet(crowd))
    assert len(maps) == 64
    assert header["more"] == 36
    assert sum(cells.size for cells in maps) <= 1 << 16


def test_a_frame_without_regions_is_a_picture_alone(make_item):
    header, picture, maps = parse(encode_packet(FrameResults(make_item().frame, [])))
    assert (header["results"], header["maps"], maps) == ([], [], [])
    assert picture.shape == (48, 64, 3)


def taps(cell: int, from_centre: float, cells: int) -> np.ndarray:
    """Weights of all cells at a place in one of them, as blend.js has them."""
    blur = 2 / 3
    before = max(blur - 0.5 - from_centre, 0) ** 2 / (2 * blur**2)
    after = max(blur - 0.5 + from_centre, 0) ** 2 / (2 * blur**2)
    weights = np.zeros(cells)
    weights[cell] = 1 - before - after
    weights[max(cell - 1, 0)] += before
    weights[min(cell + 1, cells - 1)] += after
    return weights


def test_the_maps_place_paints_what_the_overlay_paints(make_item):
    """The browser's rule, in numpy, against the run's own overlay."""
    affine = Affine(2.0, 2.0, 10.0, -6.0)
    heat = np.array([[0.2, 1.0, 0.4], [0.0, 0.6, 0.8]], np.float32)
    item = make_item(size=(40, 30), affine=affine, input_wh=(9, 12), heatmap=heat)
    header, _, (cells,) = parse(encode_packet(item))
    x, y, across, down = header["maps"][0]["place"]
    painted = np.zeros((30, 40))
    for row in range(30):
        for column in range(40):
            u, v = ((column + 0.5) / 40 - x) / across, ((row + 0.5) / 30 - y) / down
            if not (0 <= u <= 1 and 0 <= v <= 1):
                continue
            i, j = min(int(v * 2), 1), min(int(u * 3), 2)
            upright, along = taps(i, v * 2 - i - 0.5, 2), taps(j, u * 3 - j - 0.5, 3)
            painted[row, column] = upright @ (cells / 255) @ along
    assert abs(painted - heatmap_on_frame(heat, affine, (9, 12), (40, 30))).max() < 0.01
