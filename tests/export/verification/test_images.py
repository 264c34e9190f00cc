"""Which images are compared, and the picture of the worst of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from foldcam.export.datasets import Sample
from foldcam.export.verification.comparison import ImagePair
from foldcam.export.verification.images import ImagesToVerify, images_of, spread
from foldcam.export.verification.picture import worst_picture
from foldcam.export.verification.run import VerifyReport, verify_model
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.files import write_image
from foldcam.runtime.model.drawing.text import draw_caption
from foldcam.runtime.system.errors import FoldcamError

# A picture of 280 pixels and the strip of its caption.
_PANEL = draw_caption(np.zeros((280, 373, 3), np.uint8), "a").shape[0]


@pytest.fixture
def flat(shared_photos, tmp_path):
    """Photographs without labels, some of them in a folder within."""
    for number, path in enumerate(sorted(shared_photos.rglob("*.png"))):
        folder = tmp_path / "flat" / ("" if number % 2 else "within")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(path.read_bytes())
    return tmp_path / "flat"


def paths(dataset):
    """The files of a data set."""
    return [sample.path for sample in dataset.samples]


def test_a_plain_folder_needs_no_labels(flat):
    assert len(images_of(flat, "all").samples) == 12


def test_class_folders_tables_and_single_images_are_taken(shared_photos, tmp_path):
    assert len(images_of(shared_photos, "all").samples) == 12
    first = sorted(shared_photos.rglob("*.png"))[0]
    assert paths(images_of(first, "all")) == [first]
    table = tmp_path / "t.csv"
    table.write_text(f"path,label,split\n{first},a,test\n{first},b,train\n")
    assert paths(images_of(table, "test")) == [first]


def test_a_cub_folder_is_read_by_its_lists(shared_photos, tmp_path):
    root = tmp_path / "cub"
    (root / "images" / "a").mkdir(parents=True)
    write_image(root / "images" / "a" / "1.png", np.zeros((4, 4, 3), np.uint8))
    write_image(root / "not-in-the-lists.png", np.zeros((4, 4, 3), np.uint8))
    for name, text in {
        "images": "1 a/1.png",
        "classes": "1 a",
        "image_class_labels": "1 1",
        "bounding_boxes": "1 0 0 2 2",
        "train_test_split": "1 1",
    }.items():
        (root / f"{name}.txt").write_text(text + "\n")
    assert paths(images_of(root, "all")) == [root / "images" / "a" / "1.png"]


@pytest.mark.parametrize(("name", "sentence"), [("none", "does not exist"), ("", "no labelled")])
def test_what_holds_no_images_is_refused(name, sentence, tmp_path):
    with pytest.raises(FoldcamError, match=sentence):
        images_of(tmp_path / name, "all")


@pytest.mark.parametrize(("count", "most"), [(0, 3), (3, 3), (10, 3), (11, 5), (4, 9)])
def test_the_images_are_spread_over_all(count, most, tmp_path):
    samples = [Sample(tmp_path / str(number), "") for number in range(count)]
    chosen = spread(samples, most)
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen), key=samples.index)
    assert not chosen or chosen[0] == samples[0]


def test_unreadable_images_are_skipped_and_named_every_time(flat, folded_file):
    (flat / "1.png").write_bytes(b"")
    images = ImagesToVerify(images_of(flat, "all").samples)
    for _ in range(2):
        assert len(list(images)) == 11
        assert [item.path.name for item in images.skipped] == ["1.png"]
    report = verify_model(folded_file, None, images)
    assert report.main.images == 11
    (skipped,) = report.document()["skipped"]
    assert skipped["path"] == str(flat / "1.png")
    assert "empty" in skipped["reason"]


def test_only_unreadable_images_are_one_sentence(tmp_path):
    with pytest.raises(FoldcamError, match=r"None of the images could be read: .*does not exist"):
        list(ImagesToVerify([Sample(tmp_path / "a.png", ""), Sample(tmp_path / "b.png", "")]))
    with pytest.raises(FoldcamError, match="there are none"):
        list(ImagesToVerify([]))


def _pair(name, size=(20, 40), maps=1, **changes):
    expected = np.zeros((maps, 2, 4), np.float32)
    expected[:, 0, 0] = 1
    got = np.zeros((maps, 2, 4), np.float32)
    got[:, 1, 3] = 1
    values = {"cosine": 0.5, "difference": 1.0, "labels": ("owl", "crow"), **changes}
    image = np.full((*size, 3), 128, np.uint8)
    return ImagePair(name, image, changes.pop("expected", expected), got, **values)


@pytest.fixture
def report(folded_file, shared_photos):
    contract = read_contract(folded_file)
    images = ImagesToVerify(images_of(shared_photos, "all").samples)
    assert contract.outcome is None
    return verify_model(folded_file, None, images, against=[folded_file], keep_worst=2)


def test_the_picture_has_a_row_per_image_and_four_panels(report):
    picture = worst_picture(report)
    # 12 x 16 pixels enlarged to 280 x 373; two models with two images each, gaps of 6.
    assert picture.shape == (4 * _PANEL + 3 * 6, 4 * 373 + 3 * 6, 3)
    assert picture.dtype == np.uint8


def _picture(*pairs):
    from pathlib import Path
    from types import SimpleNamespace

    made = VerifyReport(Path("m.onnx"), "r", (SimpleNamespace(name="m.onnx"),), (pairs,))
    return worst_picture(made)


def test_heat_is_painted_where_it_is_and_the_difference_on_grey():
    picture = _picture(_pair("folder/a.png"))
    width = 560
    panels = [picture[:, n * (width + 6) :][:, :width].astype(int) for n in range(4)]
    corner, opposite = (slice(0, 60), slice(0, 60)), (slice(150, 200), slice(500, 560))
    grey = np.full(3, 128)

    def is_grey(panel, place):
        return np.abs(panel[place] - grey).max() < 12

    assert is_grey(panels[0], corner)
    assert is_grey(panels[0], opposite)
    assert not is_grey(panels[1], corner)
    assert is_grey(panels[1], opposite)
    assert is_grey(panels[2], corner)
    assert not is_grey(panels[2], opposite)
    assert not is_grey(panels[3], corner)
    assert not is_grey(panels[3], opposite)
    # A caption under each.
    assert all(panel[-25:].min() < 60 for panel in panels)


def test_values_that_are_not_finite_can_be_painted():
    pair = _pair("a", difference=float("nan"), cosine=float("nan"))
    pair.got[:] = np.nan
    assert _picture(pair, _pair("b")).shape[0] == 2 * _PANEL + 6


def test_maps_of_both_signs_are_painted_together():
    warm_and_cold = _picture(_pair("a", maps=2))
    assert warm_and_cold.shape == (_PANEL, 4 * 560 + 18, 3)


def test_the_command_writes_the_picture(folded_file, shared_photos, tmp_path):
    from typer.testing import CliRunner

    from foldcam.export.commands.verify import app

    out = tmp_path / "deep" / "worst.png"
    arguments = [str(folded_file), "--images", str(shared_photos), "--picture", str(out)]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    assert str(out) in ran.stdout
    image = cv2.imread(str(out))
    assert image is not None
    assert image.shape[1] == 4 * 373 + 18
    wrong = CliRunner().invoke(app, [*arguments[:-1], "worst.txt"])
    assert wrong.exit_code == 2
