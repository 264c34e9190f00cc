"""Photographs as they come: rotated, grey, transparent, deep, cut off, or no photographs."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foldcam.runtime.images.files import list_images, read_image, write_image
from foldcam.runtime.system.errors import FoldcamError

FORMATS = (".jpg", ".png", ".webp", ".bmp", ".tiff")


def encoded(suffix: str, array: np.ndarray) -> bytes:
    """By OpenCV, so BGR."""
    done, data = cv2.imencode(suffix, array)
    assert done
    return data.tobytes()


def noise(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("suffix", FORMATS)
def test_colour_order(tmp_path, suffix):
    path = tmp_path / f"orange{suffix}"
    write_image(path, np.full((16, 16, 3), (250, 120, 10), np.uint8))
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.mean(axis=(0, 1)), (250, 120, 10), atol=4)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_lossless_round_trip(tmp_path, suffix):
    path = tmp_path / "Schöne Eule 猫.x"
    path = path.with_suffix(suffix)
    write_image(path, noise())
    np.testing.assert_array_equal(read_image(path), noise())


def test_grey_becomes_three_equal_channels(tmp_path):
    path = tmp_path / "grey.png"
    grey = noise()[..., 0]
    path.write_bytes(encoded(".png", grey))
    np.testing.assert_array_equal(read_image(path), np.dstack([grey] * 3))


def test_alpha_is_dropped_without_compositing(tmp_path):
    path = tmp_path / "alpha.png"
    path.write_bytes(encoded(".png", np.dstack([noise(), np.zeros((40, 60), np.uint8)])))
    np.testing.assert_array_equal(read_image(path), noise()[..., ::-1])


def test_grey_with_alpha(tmp_path):
    path = tmp_path / "la.png"
    path.write_bytes(png(2, 1, color=4, depth=8, rows=b"\0\x64\x00\xc8\xff"))
    np.testing.assert_array_equal(read_image(path)[0], [[100] * 3, [200] * 3])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_the_high_byte(tmp_path, suffix, channels):
    path = tmp_path / f"deep{suffix}"
    deep = np.random.default_rng(1).integers(0, 65536, (20, 30, channels), np.uint16)
    path.write_bytes(encoded(suffix, deep))
    expected = np.broadcast_to((deep >> 8)[..., ::-1], (20, 30, 3))
    np.testing.assert_array_equal(read_image(path), expected)


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "float.tiff"
    path.write_bytes(encoded(".tiff", noise().astype(np.float32)))
    with pytest.raises(FoldcamError, match="float32"):
        read_image(path)


# orientation -> where the top left pixel of the stored image is shown: (row, column)
SHOWN = {
    1: (0, 0),
    2: (0, -1),
    3: (-1, -1),
    4: (-1, 0),
    5: (0, 0),
    6: (0, -1),
    7: (-1, -1),
    8: (-1, 0),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, orientation):
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16, :16] = (0, 0, 255)  # BGR: red in the stored top left
    path = tmp_path / "rotated.jpg"
    path.write_bytes(with_exif(encoded(".jpg", image), orientation))
    shown = read_image(path)
    assert shown.shape == ((32, 64, 3) if orientation < 5 else (64, 32, 3))
    row, column = SHOWN[orientation]
    assert shown[4 if row == 0 else -4, 4 if column == 0 else -4].tolist() == pytest.approx(
        [254, 0, 0], abs=3
    )
    assert (shown[..., 0] > 128).mean() == pytest.approx(1 / 8, abs=0.01)


def with_exif(jpeg: bytes, orientation: int, thumbnail: bytes = b"") -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff + thumbnail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def png(width: int, height: int, color: int, depth: int, rows: bytes, end: bool = True) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + (chunk(b"IEND", b"") if end else b"")
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_image_is_refused(tmp_path, suffix, share):
    data = encoded(suffix, noise())
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(FoldcamError, match=r"cut\.\w+ is truncated"):
        read_image(path)


def test_truncated_jpeg_with_a_whole_thumbnail_is_refused(tmp_path):
    """The thumbnail's own end-of-image marker must not pass for the image's."""
    thumbnail = encoded(".jpg", noise(8, 8))
    data = with_exif(encoded(".jpg", noise()), 1, thumbnail)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data)
    assert read_image(path).shape == (40, 60, 3)
    path.write_bytes(data[:-40])
    with pytest.raises(FoldcamError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_completeness_is_not_left_to_the_decoder(tmp_path, suffix):
    """OpenCV 4 fills the rest of a cut JPEG with grey and calls it read; 5 refuses it."""
    from foldcam.runtime.images.format import image_format
    from foldcam.runtime.images.integrity import check_complete

    data = encoded(suffix, noise())
    kind = image_format(data)
    assert kind is not None
    check_complete(data, kind, tmp_path)
    for length in range(16, len(data) - 2, 97):
        with pytest.raises(FoldcamError, match="truncated"):
            check_complete(data[:length], kind, tmp_path)


def test_jpeg_with_bytes_after_its_end_is_read(tmp_path):
    path = tmp_path / "motion.jpg"
    path.write_bytes(encoded(".jpg", noise()) + b"a phone's film" * 100)
    assert read_image(path).shape == (40, 60, 3)


def test_png_without_its_end_is_refused(tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(png(2, 1, color=2, depth=8, rows=b"\0" * 7, end=False))
    with pytest.raises(FoldcamError, match="truncated"):
        read_image(path)


def test_png_with_a_wrong_checksum_is_refused(tmp_path):
    data = bytearray(encoded(".png", noise()))
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "flipped.png"
    path.write_bytes(data)
    with pytest.raises(FoldcamError, match="checksum"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not an image at all", "not an image"),
        (b"GIF89a", "truncated"),
        (b"GIF89a" + b"\0" * 64, "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (png(60000, 60000, color=2, depth=8, rows=b"\0" * 9), "more than the 100 megapixels"),
        (png(60, 40, color=2, depth=8, rows=b"\0" * 99), "truncated or damaged"),
    ],
)
def test_bad_file_gives_one_sentence(tmp_path, content, message):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(FoldcamError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_regular_file(tmp_path):
    for path, message in (
        (tmp_path / "none.jpg", "does not exist"),
        (tmp_path, "is a folder"),
        ("/dev/zero", "not a regular file"),
        ("a\0b.jpg", "not a file name|does not exist"),
    ):
        with pytest.raises(FoldcamError, match=message):
            read_image(path)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(suffix=st.sampled_from(FORMATS), data=st.data())
def test_mutated_images_raise_nothing_else(tmp_path, suffix, data):
    content = bytearray(encoded(suffix, noise(12, 16)))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"mutated{suffix}"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        image = read_image(path)
    except FoldcamError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either may happen)
    else:
        assert image.dtype == np.uint8
        assert image.ndim == 3


def test_listing_is_natural_recursive_and_without_hidden_files(tmp_path):
    for name in (
        "10.jpg",
        "2.JPG",
        "a/1.png",
        "b/x.tiff",
        ".hidden.jpg",
        ".git/y.png",
        "notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["2.JPG", "10.jpg", "a/1.png", "b/x.tiff"]
    assert [path.name for path in list_images(tmp_path, recursive=False)] == ["2.JPG", "10.jpg"]


def test_writing_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.png", "/proc/a.png", "/dev/full.d/../full", tmp_path):
        with pytest.raises(FoldcamError):
            write_image(path, noise())
    with pytest.raises(FoldcamError, match="no image suffix"):
        write_image(tmp_path / "a.txt", noise())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_device_is_never_replaced(tmp_path):
    from pathlib import Path

    from foldcam.runtime.system.files import atomic_path

    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(FoldcamError), atomic_path(path):
            pass
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("deep", [False, True])
def test_a_photograph_of_many_bands_keeps_its_colours(tmp_path, deep):
    """Colours are put in order band by band, so that no second whole picture is needed."""
    large = np.random.default_rng(5).integers(0, 256, (2500, 2600, 3), np.uint8)
    given = large.astype(np.uint16) * 256 + 77 if deep else large
    path = tmp_path / "large.bmp"
    path = path.with_suffix(".png" if deep else ".bmp")
    path.write_bytes(encoded(path.suffix, given))
    np.testing.assert_array_equal(read_image(path), large[..., ::-1])
