"""Pictures of every format: the right colours, or one sentence; never a film, never grey."""

from __future__ import annotations

import io
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from foldcam.runtime.images.files import read_image
from foldcam.runtime.images.format import film_format, image_format
from foldcam.runtime.images.integrity import may_be_filled
from foldcam.runtime.images.size import image_size
from foldcam.runtime.sources import open_source
from foldcam.runtime.sources.video import VideoSource
from foldcam.runtime.system.errors import FoldcamError

spec = spec_from_file_location("headers", Path(__file__).parent / "headers.py")
assert spec is not None
assert spec.loader is not None
headers = module_from_spec(spec)
spec.loader.exec_module(headers)

SAID = {
    "jpeg": "JPEG", "progressive": "JPEG", "png": "PNG", "gif": "GIF", "webp": "WebP",
    "bmp": "BMP", "tiff": "TIFF", "pgm": "PNM", "ppm": "PNM", "avif": "AVIF", "jp2": "JPEG 2000",
    "heic": "HEIC",
}  # fmt: skip


@pytest.mark.parametrize("name", headers.NAMES)
def test_every_format_gives_its_colours_by_its_content(tmp_path, name):
    path = tmp_path / "named.jpg"
    path.write_bytes(headers.encoded(name))
    image = read_image(path)
    assert (image.shape, image.dtype, image.flags.c_contiguous) == ((64, 96, 3), np.uint8, True)
    if name == "heic":
        expected = [[200, 30, 30], [30, 30, 200]]
    elif name == "pgm":
        expected = [[int(0.299 * 180) + 20] * 3, [int(0.114 * 180) + 20] * 3]
    else:
        expected = [[200, 20, 20], [20, 20, 200]]
    found = [image[4:28, 4:44].mean(axis=(0, 1)), image[4:28, 52:92].mean(axis=(0, 1))]
    np.testing.assert_allclose(found, expected, atol=12)


@pytest.mark.parametrize("name", headers.NAMES)
def test_the_header_says_format_and_size_before_anything_is_decoded(name):
    data = headers.encoded(name)
    kind = image_format(data[:256])
    assert kind == SAID[name]
    assert image_size(data, kind) == (96, 64)
    assert not film_format(data)
    assert image_size(headers.promising(name, 130, 77), kind) == (130, 77)


@pytest.mark.parametrize("name", headers.NAMES)
def test_a_cut_file_of_any_format_is_refused(tmp_path, name):
    data = headers.encoded(name)
    path = tmp_path / "cut"
    for share in (0.5, 0.8, 0.95):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(FoldcamError, match=r"cut is truncated"):
            read_image(path)


@pytest.mark.parametrize("name", headers.NAMES)
def test_a_file_cut_anywhere_in_its_header_is_one_sentence(tmp_path, name):
    data = headers.encoded(name)
    path = tmp_path / "cut"
    for length in range(1, 120):
        path.write_bytes(data[:length])
        with pytest.raises(FoldcamError, match="cut is "):
            read_image(path)


@pytest.mark.parametrize("name", ["jpeg", "progressive", "png", "gif", "bmp", "ppm", "jp2", "heic"])
@pytest.mark.parametrize("size", [(96, 128), (192, 64), (1000, 1000)])
def test_a_header_that_promises_more_than_the_data_is_no_picture(tmp_path, name, size):
    path = tmp_path / "promise"
    path.write_bytes(headers.promising(name, *size))
    with pytest.raises(FoldcamError, match=r"truncated|damaged"):
        read_image(path)


@pytest.mark.parametrize("lost", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["jpeg", "progressive"])
@pytest.mark.parametrize("print_colours", [False, True])
def test_a_jpeg_that_was_cut_and_closed_again_is_no_picture(tmp_path, lost, name, print_colours):
    data = headers.encoded(name)
    if print_colours:
        made = io.BytesIO()
        progressive = name == "progressive"
        picture = Pillow.fromarray(headers.colours()).convert("CMYK")
        picture.save(made, "JPEG", progressive=progressive)
        data = made.getvalue()
    path = tmp_path / "closed.jpg"
    path.write_bytes(data)
    assert read_image(path).shape == (64, 96, 3)
    start = data.find(b"\xff\xda") + 14
    stop = len(data) if name == "jpeg" else data.find(b"\xff\xc4", start)
    kept = start + int((1 - lost) * (stop - start))
    path.write_bytes(data[:kept] + b"\xff\xd9")
    with pytest.raises(FoldcamError, match=r"its data end before|truncated"):
        read_image(path)


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("interval", [0, 2])
def test_a_picture_that_ends_in_the_same_grey_is_read(
    tmp_path, quality, progressive, mode, interval
):
    grey = np.full((70, 90, 3), 128, np.uint8)
    grey[:40] = headers.colours(40, 90)
    path = tmp_path / "card.jpg"
    made = Pillow.fromarray(grey).convert(mode)
    made.save(path, quality=quality, progressive=progressive, restart_marker_blocks=interval)
    image = read_image(path)
    assert image.shape == (70, 90, 3)
    assert may_be_filled(image, path.read_bytes())
    plain = np.asarray(made.convert("RGB"), int)
    assert abs(image[50:].astype(int) - plain[50:]).max() <= 3


def test_the_first_frame_of_an_animation_is_the_picture_and_alone_it_is_a_film(tmp_path):
    shades = [Pillow.fromarray(np.full((20, 30, 3), 60 * n, np.uint8)) for n in range(1, 5)]
    path = tmp_path / "moving.gif"
    shades[0].save(path, save_all=True, append_images=shades[1:], duration=40)
    assert read_image(path)[10, 10].tolist() == pytest.approx([60] * 3, abs=4)
    with open_source(file=str(tmp_path)) as folder:
        assert [frame.index for frame in folder] == [0]
    with open_source(file=str(path)) as film:
        assert not film.stills
        assert [round(float(frame.image.mean()), -1) for frame in film] == [60, 120, 180, 240]


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg", "photo.mp4", "photo"])
def test_a_heic_is_a_picture_under_any_name_and_never_a_film(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(headers.HEIC)
    with open_source(file=str(path)) as source:
        assert source.stills
        (frame,) = source
    assert frame.image.shape == (64, 96, 3)
    with pytest.raises(FoldcamError, match="is a HEIC picture, not a video"):
        VideoSource(path)


def test_without_the_extra_a_heic_is_refused_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    path = tmp_path / "photo.heic"
    path.write_bytes(headers.HEIC)
    with pytest.raises(FoldcamError, match=r"photo.heic is a HEIC picture.*'foldcam\[heic\]'"):
        read_image(path)


def test_a_heic_of_several_tiles_is_one_picture(tmp_path):
    """What a film reader would give is the first tile."""
    path = tmp_path / "tiles.heic"
    path.write_bytes(headers.HEIC_TILES)
    image = read_image(path)
    assert image.shape == headers.TILES_SHAPE
    height, width = image.shape[:2]
    corners = image[[4, 4, -5, -5], [4, -5, 4, -5]].astype(int)
    expected = [[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 200]]
    assert abs(corners - expected).max() < 20, (height, width)


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        (b"heic\0\0\0\0mif1heic", "HEIC"),
        (b"mif1\0\0\0\0mif1heic", "HEIC"),
        (b"mif1\0\0\0\0avifmif1", "AVIF"),
        (b"avis\0\0\0\0avif", "AVIF"),
        (b"msf1\0\0\0\0hevc", "HEIC"),
        (b"isom\0\0\0\0mp41", None),
        (b"qt  \0\0\0\0qt  ", None),
        (b"mp42\0\0\0\0mp42heic", None),
    ],
)
def test_brands_tell_stills_from_films(brands, kind):
    data = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"\0\0\0\x08free"
    assert image_format(data) == kind
    assert film_format(data) == (kind is None)


def test_an_opencv_without_a_decoder_is_named(tmp_path, monkeypatch):
    import foldcam.runtime.images.files

    path = tmp_path / "a.avif"
    path.write_bytes(headers.encoded("avif"))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    monkeypatch.setattr(foldcam.runtime.images.files, "has", lambda option: option != "AVIF")
    with pytest.raises(FoldcamError, match="built without a decoder"):
        read_image(path)
