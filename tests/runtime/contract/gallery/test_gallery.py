"""A gallery's file: what was written comes back, and what is hostile is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from foldcam.runtime.contract.gallery import (
    MAX_MAP_SIDE,
    SIDE,
    Gallery,
    GalleryWriter,
    gallery_path,
)
from foldcam.runtime.system.errors import FoldcamError


def parts_of(path):
    """The header's document, and the bytes behind it."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(path, document, body):
    text = json.dumps(document).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def with_thumbnail(path, data: bytes):
    """Put other bytes in place of the first thumbnail, of the same length or shorter."""
    document, body = parts_of(path)
    body = bytearray(body)
    first, _ = document["thumbnail_ends"]["data_offsets"]
    (end,) = struct.unpack_from("<q", body, first)
    assert len(data) <= end
    body[:end] = data.ljust(end, b"\0")
    join(path, document, bytes(body))


def test_every_row_has_its_own_picture_map_and_name(gallery_of, contract_with):
    with Gallery(gallery_of(), contract_with()) as gallery:
        for row, color in enumerate([(20, 40, 210), (30, 200, 40), (210, 40, 20)]):
            picture = gallery.picture(row)
            assert picture.shape == (60, 80, 3)
            assert abs(picture.reshape(-1, 3).mean(0) - color).max() < 4
            assert gallery.map(row).ravel().tolist() == [0.25 * (row == at) for at in range(4)]
            assert gallery.name(row) == f"{contract_with().label_of(row)}/1.png"
        with pytest.raises(IndexError):
            gallery.picture(3)
        with pytest.raises(IndexError):
            gallery.map(-1)


def test_an_engine_has_the_gallery_of_its_model():
    assert gallery_path(Path("a/birds.engine")) == gallery_path(Path("a/birds.onnx"))
    assert gallery_path(Path("a/birds.onnx")) == Path("a/birds.gallery")


def test_the_file_is_safetensors(gallery_of):
    arrays = load_file(gallery_of())
    assert arrays["maps"].dtype == np.float16
    assert arrays["maps"].shape == (3, 2, 2)
    assert arrays["thumbnail_ends"][-1] == len(arrays["thumbnails"])


def test_pictures_are_made_small_and_fine_maps_are_averaged(tmp_path, contract_with):
    contract = contract_with(heatmap_size=(80, 160), feature_map=(3, 40, 80))
    with (tmp_path / "a.gallery").open("wb") as file:
        writer = GalleryWriter(file, contract)
        for value in (-0.5, 0.0, 1e9):
            writer.add(np.zeros((300, 600, 3), np.uint8), np.full((80, 160), value), "x")
        writer.finish()
    with Gallery(tmp_path / "a.gallery", contract) as gallery:
        assert gallery.picture(0).shape == (SIDE // 2, SIDE, 3)
        assert gallery.map(0).shape == (40, MAX_MAP_SIDE)
        assert (gallery.map(0) == -0.5).all()
        assert np.isfinite(gallery.map(2)).all()


def test_a_row_without_a_picture_has_none(tmp_path, contract_with):
    with (tmp_path / "a.gallery").open("wb") as file:
        writer = GalleryWriter(file, contract_with())
        for _ in range(3):
            writer.add(None, None, "")
        writer.finish()
    with Gallery(tmp_path / "a.gallery", contract_with()) as gallery:
        assert gallery.picture(1) is None
        assert not gallery.map(1).any()
        assert gallery.name(1) == ""


def test_the_gallery_of_another_bank_is_refused(gallery_of, contract_with):
    bank = contract_with().bank
    other = contract_with(bank=type(bank)(**{**vars(bank), "sha256": "7" * 64}))
    path = gallery_of()
    with pytest.raises(FoldcamError, match=r"tiny\.gallery is the gallery of another bank"):
        Gallery(path, other)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("maps"),
        lambda header: header.pop("__metadata__"),
        lambda header: header["maps"].update(shape=[3, 2, 1 << 40]),
        lambda header: header["maps"].update(shape=[1 << 40, 2, 2]),
        lambda header: header["maps"].update(shape=[3, -2, -2]),
        lambda header: header["maps"].update(dtype="F64"),
        lambda header: header["maps"].update(data_offsets=[0, 1 << 50]),
        lambda header: header["maps"].update(data_offsets=[24, 0]),
        lambda header: header["names"].update(data_offsets="all"),
        lambda header: header["thumbnail_ends"].update(shape=[1 << 60]),
        lambda header: header["thumbnails"].update(shape=[1], data_offsets=[0, 1]),
        lambda header: header["__metadata__"].update({"foldcam.gallery": "{"}),
        lambda header: header["__metadata__"].update(
            {"foldcam.gallery": '{"schema_version": 2, "bank_sha256": ""}'}
        ),
    ],
)
def test_a_header_that_cannot_be_is_refused(change, gallery_of, contract_with):
    path = gallery_of()
    document, body = parts_of(path)
    change(document)
    join(path, document, body)
    with pytest.raises(FoldcamError, match=r"tiny\.gallery"):
        Gallery(path, contract_with())


@pytest.mark.parametrize(
    "data",
    [b"", b"abc", struct.pack("<Q", 1 << 62), struct.pack("<Q", 8) + b"not json", b"\xff" * 64],
)
def test_what_is_no_gallery_is_refused(data, tmp_path, contract_with):
    path = tmp_path / "a.gallery"
    path.write_bytes(data)
    with pytest.raises(FoldcamError, match="is not a gallery, or it is damaged"):
        Gallery(path, contract_with())
    with pytest.raises(FoldcamError, match="does not exist"):
        Gallery(tmp_path / "none.gallery", contract_with())


def test_ends_that_go_back_or_beyond_are_refused(gallery_of, contract_with):
    for ends in ([900, 10, 1000], [10, 20, 1 << 40], [-5, 1, 2], [0, 0, 1 << 20]):
        path = gallery_of()
        document, body = parts_of(path)
        body = bytearray(body)
        struct.pack_into("<3q", body, document["thumbnail_ends"]["data_offsets"][0], *ends)
        join(path, document, bytes(body))
        with pytest.raises(FoldcamError, match="thumbnail_ends"):
            Gallery(path, contract_with())


def test_any_damaged_byte_gives_a_sentence_or_other_pictures(gallery_of, contract_with):
    path = gallery_of()
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for at in generator.integers(0, len(data), 4):
            data[at] = generator.integers(256)
        path.write_bytes(data[: generator.integers(1, len(data) + 1)])
        try:
            with Gallery(path, contract_with()) as gallery:
                for row in range(3):
                    gallery.picture(row), gallery.map(row), gallery.name(row)
        except FoldcamError:
            pass


def test_a_thumbnail_that_is_no_small_jpeg_is_no_picture(tmp_path, contract_with):
    path = tmp_path / "a.gallery"
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    with path.open("wb") as file:
        writer = GalleryWriter(file, contract_with())
        for _ in range(3):
            writer.add(noise, None, "")
        writer.finish()
    small = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    at = small.index(b"\xff\xc0") + 5
    bomb = small[:at] + struct.pack(">HH", 65_000, 65_000) + small[at + 4 :]
    large = cv2.imencode(".jpg", np.zeros((600, 8, 3), np.uint8))[1].tobytes()
    other = cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    for data in (bomb, large, other, small[:40], b"text"):
        with_thumbnail(path, data)
        with Gallery(path, contract_with()) as gallery:
            assert gallery.picture(0) is None
            assert gallery.picture(1).shape == (160, 160, 3)


def test_a_file_that_became_shorter_is_said_to_be(gallery_of, contract_with):
    path = gallery_of()
    with Gallery(path, contract_with()) as gallery:
        with path.open("r+b") as file:
            file.truncate(100)
        with pytest.raises(FoldcamError, match="is cut short"):
            gallery.map(2)
