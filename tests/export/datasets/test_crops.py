"""A row with a box is that part of its photograph: another image than its neighbour's."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from foldcam.export.banks.bank import BankSource
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.removal import remove_from_bank
from foldcam.export.banks.selection import selection_of
from foldcam.export.banks.update import add_to_bank
from foldcam.export.datasets import Dataset, Sample, load_dataset
from foldcam.export.datasets.reading import picture_hash, read_picture
from foldcam.export.datasets.samples import Box
from foldcam.export.verification.images import ImagesToVerify, images_of
from foldcam.runtime.contract.schema import Origin
from foldcam.runtime.images.files import read_image, write_image
from foldcam.runtime.system.errors import FoldcamError

COLORS = ((220, 40, 30), (40, 200, 60), (30, 60, 220), (200, 200, 40))


@pytest.fixture
def people(tmp_path):
    """Three photographs of four coloured squares each; a CSV with a row for every square."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(3):
        image = generator.integers(0, 60, (24, 80, 3)).astype(np.uint8)
        for place, color in enumerate(COLORS):
            image[2:22, 20 * place + 2 : 20 * place + 18] = color
            rows.append(f"{number}.png,{'ab'[place % 2]},{20 * place},0,20,24")
        write_image(tmp_path / f"{number}.png", image)
    table = tmp_path / "people.csv"
    table.write_text("path,label,x,y,w,h\n" + "\n".join(rows) + "\n")
    return table


@pytest.fixture
def build(cut, preprocessing):
    def call(samples, name="Normalized"):
        goal = parse_objective("all-triplets")
        return build_bank(cut(name), preprocessing, samples, goal, batch_size=5)

    return call


def test_a_row_is_the_part_of_its_photograph(people):
    for sample in load_dataset(people).samples[:4]:
        picture = read_picture(sample)
        assert picture.image.shape == (24, 20, 3)
        x = int(sample.crop.x)
        np.testing.assert_array_equal(picture.image, read_image(sample.path)[:, x : x + 20])


def test_two_crops_of_one_photograph_are_two_rows_that_differ(people, build):
    samples = load_dataset(people).samples
    bank = build(samples).bank
    assert bank.rows == 12
    assert len({row.tobytes() for row in bank.image_hashes}) == 12
    assert (bank.embeddings @ bank.embeddings.T)[0, 1:].min() < 0.999
    assert len({sample.identity for sample in samples}) == 12


def test_the_hash_of_a_whole_photograph_is_its_files(people):
    path = load_dataset(people).samples[0].path
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_picture(Sample(path, "a")).sha256 == whole
    crop = read_picture(load_dataset(people).samples[0]).sha256
    assert crop != whole
    assert crop == picture_hash(whole, Box(0, 0, 20, 24))
    assert crop[:32] == whole[:32]


def test_a_box_partly_outside_is_clipped_and_counted(people, build):
    text = people.read_text() + "0.png,a,70,-5,40,20\n"
    people.write_text(text)
    samples = load_dataset(people).samples
    assert read_picture(samples[-1]).image.shape == (15, 10, 3)
    assert any(note.startswith("1 box reaches beyond") for note in build(samples).remarks)


@pytest.mark.parametrize("box", ["80,0,5,5", "0,24,5,5", "-9,0,9,5"])
def test_a_box_outside_the_photograph_is_skipped_with_its_line(box, people, build):
    people.write_text(people.read_text() + f"0.png,a,{box}\n")
    report = build(load_dataset(people).samples)
    (skipped,) = report.skipped
    assert "people.csv, line 14: the box" in skipped.reason
    assert "outside the photograph, which is 80 x 24 pixels" in skipped.reason


def test_verify_reads_the_crops(people):
    images = list(ImagesToVerify(images_of(people, "all").samples))
    assert [named.image.shape for named in images] == [(24, 20, 3)] * 12
    assert images[1].name.endswith("0.png#20,0,20,24")


def test_crops_that_are_in_the_bank_are_known_and_others_of_the_photograph_are_new(
    people, build, cut, preprocessing
):
    samples = load_dataset(people).samples
    network = cut("Normalized")
    origin = Origin("n", "", network.sha256(), "people.csv", "train", "")
    bank = replace(build(samples[:8]).bank, source=BankSource(origin, network.layer, preprocessing))
    report = add_to_bank(bank, network, Dataset("people.csv", "train", samples[4:]))
    assert report.added == 4
    assert sorted(report.known) == sorted(sample.name for sample in samples[4:8])


def test_a_photograph_is_removed_with_its_crops_and_a_crop_alone(people, build):
    samples = load_dataset(people).samples
    bank = build(samples).bank
    photograph = str(samples[0].path)
    report = remove_from_bank(bank, selection_of([], [photograph], bank))
    assert len(report.removed) == 4
    assert report.document()["complete"]
    named = samples[2].name
    report = remove_from_bank(bank, selection_of([], [named], bank))
    assert [bank.image_hashes[row].tobytes().hex() for row in report.removed] == [
        read_picture(samples[2]).sha256
    ]
    assert report.document()["complete"]
    by_hash = report.document()["removed"][0]["image_sha256"]
    assert remove_from_bank(bank, selection_of([], [by_hash], bank)).removed == report.removed
    file_hash = hashlib.sha256(samples[0].path.read_bytes()).hexdigest()
    assert len(remove_from_bank(bank, selection_of([], [file_hash], bank)).removed) == 4
    with pytest.raises(FoldcamError, match="has none of what is to be removed"):
        remove_from_bank(bank, selection_of([], [f"{photograph}#1,2,3,4"], bank))


def test_the_same_picture_under_two_labels_is_named(photos, build):
    twin = photos / "red" / "twin.png"
    twin.write_bytes((photos / "blue" / "0.png").read_bytes())
    again = photos / "green" / "again.png"
    again.write_bytes((photos / "green" / "0.png").read_bytes())
    notes = build(load_dataset(photos).samples).remarks
    assert "The same picture under different labels, 1 time" in notes[0]
    assert str(twin) in notes[0]
    assert "1 picture is there a second time under the same label" in notes[1]


def test_a_label_none_of_whose_images_can_be_read_is_named(photos, build):
    for path in (photos / "red").iterdir():
        path.write_bytes(b"nothing")
    notes = build(load_dataset(photos).samples).remarks
    assert notes == ("No image of 'red' could be read: this label is not in the bank.",)
