"""Maps as data: whole files, with everything that is needed to place them in the frame."""

from __future__ import annotations

import errno
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldcam.runtime.sinks import open_outputs
from foldcam.runtime.sinks.options import OutputOptions
from foldcam.runtime.sinks.pictures import MapsSink
from foldcam.runtime.system.errors import FoldcamError

HEAT = ((1.0, 0.0), (0.25, 0.0))


@pytest.fixture
def film(make_source):
    return make_source(name="film.mp4", stem="film", live=False)


def test_arrays_are_what_the_network_returned_with_their_place(
    tmp_path, film, make_item, make_result
):
    boxes = [(4, 6, 16, 12), (0, 0, 8, 8)]
    results = [
        make_result(label, 0.5, heat=HEAT, box=box) for label, box in zip("ab", boxes, strict=True)
    ]
    with MapsSink(tmp_path / "m", [film]) as sink:
        sink.write(make_item(42, *results, seconds=1.5))
    with np.load(tmp_path / "m" / "film-000000042.npz", allow_pickle=False) as arrays:
        got = {name: arrays[name] for name in arrays.files}
    assert (got["heatmap"].dtype, got["heatmap"].shape) == (np.float32, (2, 2, 2))
    np.testing.assert_array_equal(got["heatmap"][0], HEAT)
    np.testing.assert_array_equal(got["box"], boxes)
    assert got["answer"].tolist() == ["a", "b"]
    assert got["similarity"].tolist() == [0.5, 0.5]
    assert (str(got["source"]), int(got["frame"]), float(got["timestamp"])) == ("cam", 42, 1.5)
    # The right edge of the second column is the right edge of the box.
    scale, _, offset, _ = got["affine"][0]
    assert scale * 2 * got["input_wh"][0] / 2 + offset == boxes[0][0] + boxes[0][2]
    assert "contribution" not in got


def test_a_frame_without_regions_has_no_maps(tmp_path, film, make_item):
    item = make_item(0)
    item.results = ()
    with MapsSink(tmp_path, [film]) as sink:
        sink.write(item)
    with np.load(tmp_path / "film-000000000.npz") as arrays:
        assert (len(arrays["heatmap"]), len(arrays["box"]), len(arrays["answer"])) == (0, 0, 0)


def test_a_png_is_the_heat_on_the_frame(tmp_path, film, make_item, make_result):
    item = make_item(7, make_result(heat=HEAT))
    with MapsSink(tmp_path, [film], "png") as sink:
        sink.write(item)
    grey = cv2.imread(str(tmp_path / "film-000000007.png"), cv2.IMREAD_UNCHANGED)
    assert (grey.dtype, grey.shape) == (np.uint16, item.frame.image.shape[:2])
    np.testing.assert_allclose(grey / 65535, item.heat, atol=1e-5)


def test_photographs_keep_their_names_and_never_collide(runtime, tiny_model, photo, tmp_path):
    for name in ("a/1.png", "a/1.jpg", "b.jpg"):
        photo(name)
    done = runtime("run", tiny_model, tmp_path / "photos", "--maps", "m", "--quiet")
    assert done.returncode == 0, done.stderr
    made = tmp_path / "working" / "m"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()) == [
        "a/1.jpg.npz", "a/1.png.npz", "b.jpg.npz",
    ]  # fmt: skip


def test_maps_of_a_camera_are_numbered_and_go_on(tmp_path, make_source, make_item):
    for _ in range(2):
        with MapsSink(tmp_path, [make_source()]) as sink:
            sink.write(make_item(0))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[-11:] for name in names] == ["-000001.npz", "-000002.npz"]


def test_the_folder_of_the_input_is_refused(runtime, tiny_model, photo):
    path = photo("a.png")
    done = runtime("run", tiny_model, path, "--maps", path.parent)
    assert done.returncode == 1
    assert "is the folder of the input" in done.stderr
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("other", ["save", "images"])
def test_pictures_and_maps_need_a_folder_each(tmp_path, make_source, other):
    options = OutputOptions(maps=str(tmp_path), **{other: str(tmp_path)})
    with pytest.raises(FoldcamError, match="a folder of its own"):
        open_outputs([make_source()], options)


@pytest.mark.parametrize("form", ["npz", "png"])
def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, make_source, make_item, form, monkeypatch):
    def full(self, data):
        with self.open("wb") as stream:
            stream.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    source = make_source(name="film.mp4", stem="film", live=False)
    with MapsSink(tmp_path, [source], form) as sink:
        sink.write(make_item(0))
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(FoldcamError, match="No space left"):
            sink.write(make_item(1))
    assert [path.name for path in tmp_path.iterdir()] == [f"film-000000000.{form}"]
