"""Making galleries: picture i belongs to row i, and a gallery is never of other images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.exporting.gallery import make_gallery
from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.engine.inspect import inspect_model
from foldcam.runtime.images.files import read_image, write_image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def made(loaded, photos, tmp_path):
    """`made(**options)`: a model of the photographs in `tmp_path`, and its report."""

    def make(**options):
        out = tmp_path / "model.onnx"
        return export_model(
            loaded, load_dataset(photos), out, parse_objective("all-triplets"), **options
        )

    return make


def test_each_row_has_its_own_picture_and_the_models_map_of_it(made, photos, tmp_path):
    report = made(gallery=True)
    assert report.gallery.path == tmp_path / "model.gallery"
    assert (report.gallery.rows, report.gallery.missing, report.gallery.others) == (12, 0, 0)
    with (
        FoldedModel.load(report.path, "cpu", 1) as model,
        Gallery(report.gallery.path, model.contract) as gallery,
    ):
        originals = [read_image(path).astype(int) for path in sorted(photos.rglob("*.png"))]
        for row in range(12):
            label = model.contract.label_of(row)
            assert gallery.name(row) == f"{label}/{row % 4}.png"
            apart = [abs(gallery.picture(row) - each).mean() for each in originals]
            assert np.argmin(apart) == row
            result = model(read_image(photos / gallery.name(row)))
            assert result.neighbors[0] == row
            np.testing.assert_allclose(gallery.map(row), result.contribution, rtol=2e-3, atol=1e-6)


def test_a_model_that_is_there_gets_the_same_gallery_from_its_data(made, photos, tmp_path):
    report = made(gallery=True)
    again = make_gallery(report.path, load_dataset(photos), tmp_path / "again.gallery")
    assert again.path.read_bytes() == report.gallery.path.read_bytes()


def test_other_images_than_the_banks_are_refused_and_nothing_is_left(made, photos, tmp_path):
    model = made().path
    write_image(photos / "red" / "2.png", np.zeros((20, 24, 3), np.uint8))
    with pytest.raises(FoldcamError, match="is not what the model's bank was built from"):
        make_gallery(model, load_dataset(photos))
    (photos / "red" / "2.png").unlink()
    with pytest.raises(FoldcamError, match="is not what the model's bank was built from"):
        make_gallery(model, load_dataset(photos))
    assert not [path for path in tmp_path.iterdir() if "gallery" in path.name]


def test_what_the_bank_left_out_is_left_out_again(made, photos):
    (photos / "red" / "9.png").write_bytes(b"no picture")
    report = made()
    assert report.contract.bank.rows == 12
    lone = photos / "white"
    lone.mkdir()
    shutil.copy(photos / "red" / "0.png", lone / "lone.png")
    assert make_gallery(report.path, load_dataset(photos)).missing == 0


def test_by_its_bank_a_row_is_found_among_other_images(made, photos, tmp_path):
    report = made(bank_out=tmp_path / "bank.safetensors")
    bank = Bank.load(tmp_path / "bank.safetensors")
    (photos / "green" / "1.png").unlink()
    # The same picture under another label is not the row's.
    shutil.copy(photos / "blue" / "0.png", photos / "red" / "0b.png")
    made_of = make_gallery(report.path, load_dataset(photos), bank=bank)
    assert made_of.missing == 1
    assert "1 of 12 rows have no picture" in made_of.notes()[0]
    with Gallery(made_of.path, report.contract) as gallery:
        names = [gallery.name(row) for row in range(12)]
        assert names == [
            "" if (label, number) == ("green", 1) else f"{label}/{number}.png"
            for label in ("blue", "green", "red")
            for number in range(4)
        ]
        assert gallery.picture(5) is None
    other = replace(bank, embeddings=-bank.embeddings)
    with pytest.raises(FoldcamError, match="The bank is not the one that was folded"):
        make_gallery(report.path, load_dataset(photos), bank=other)
    with pytest.raises(FoldcamError, match="an older foldcam wrote it"):
        make_gallery(report.path, load_dataset(photos), bank=replace(bank, image_hashes=None))


def test_a_gallery_of_other_rows_is_said_where_a_model_is_written_beside_it(made, photos, tmp_path):
    assert inspect_model(made(gallery=True).path)["gallery"]["problem"] is None
    assert not any("gallery" in note for note in made().notes)
    (photos / "red" / "3.png").unlink()
    report = made()
    (note,) = [note for note in report.notes if "gallery" in note]
    assert "model.gallery is the gallery of another bank" in note
    assert "another bank" in inspect_model(report.path)["gallery"]["problem"]
    (tmp_path / "model.gallery").unlink()
    assert inspect_model(report.path)["gallery"] is None


def test_a_picture_that_is_there_twice_is_counted(made, photos):
    shutil.copy(photos / "blue" / "0.png", photos / "blue" / "copy.png")
    report = made(gallery=True)
    assert report.gallery.others == 1
    assert any("nearest to another row than their own" in note for note in report.notes)


def test_the_command_writes_a_gallery_beside_the_model(made, photos, foldcam, tmp_path):
    model = made().path
    status, out, err = foldcam("gallery", model, "--images", photos, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert document["path"] == str(tmp_path / "model.gallery")
    assert document["rows"] == 12
    Gallery(tmp_path / "model.gallery", read_contract(model)).close()
    status, out, err = foldcam("gallery", model, "--images", photos, "--out", tmp_path / "x.onnx")
    assert (status, err.count("\n")) == (1, 1)
    assert "a gallery is a .gallery file" in err


def test_values_have_a_gallery_in_the_order_of_the_values(loaded, photos, tmp_path):
    lines = [f"{path.relative_to(tmp_path)},{n % 5}.5" for n, path in
             enumerate(sorted(photos.rglob("*.png")))]  # fmt: skip
    (tmp_path / "prices.csv").write_text("\n".join(["path,label", *lines]))
    data = load_dataset(tmp_path / "prices.csv", continuous=True)
    report = export_model(loaded, data, tmp_path / "m.onnx", gallery=True)
    again = make_gallery(report.path, data, tmp_path / "again.gallery")
    assert again.path.read_bytes() == report.gallery.path.read_bytes()
    with Gallery(again.path, report.contract) as gallery:
        values = [
            float(dict(line.split(",") for line in lines)[gallery.name(row)]) for row in range(12)
        ]
    assert values == sorted(values)


def test_a_crop_is_its_rows_picture(loaded, tmp_path):
    whole = np.zeros((40, 80, 3), np.uint8)
    whole[:, :40], whole[:, 40:] = (220, 40, 30), (30, 60, 220)
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", whole)
    rows = [f"{name}.png,{label},{x},0,40,40" for name in "ab" for label, x in
            (("red", 0), ("blue", 40))]  # fmt: skip
    (tmp_path / "crops.csv").write_text("\n".join(["path,label,x,y,w,h", *rows]))
    data = load_dataset(tmp_path / "crops.csv")
    report = export_model(loaded, data, tmp_path / "m.onnx", gallery=True)
    with Gallery(report.gallery.path, report.contract) as gallery:
        for row, color in enumerate([(30, 60, 220)] * 2 + [(220, 40, 30)] * 2):
            assert gallery.picture(row).shape == (40, 40, 3)
            assert abs(gallery.picture(row).reshape(-1, 3).mean(0) - color).max() < 5
            assert gallery.name(row).endswith("#40,0,40,40" if row < 2 else "#0,0,40,40")
