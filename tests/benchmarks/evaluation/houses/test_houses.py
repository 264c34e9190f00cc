"""Reading houses in both layouts, and splitting them."""

from __future__ import annotations

import pytest

from foldcam.benchmarks.evaluation.houses.houses import KINDS, load_houses, split_houses
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def folder(tmp_path):
    """`houses.csv` with 25 houses, whose photographs lie in `images/`."""
    (tmp_path / "images").mkdir()
    lines = [f"{n},{n},{1000 * n}" for n in range(1, 26)]
    (tmp_path / "houses.csv").write_text("\n".join(["house,bedrooms,price_usd", *lines]) + "\n")
    for n in range(1, 26):
        for kind in KINDS:
            (tmp_path / "images" / f"{n}_{kind}.jpg").write_bytes(b"x")
    return tmp_path


def test_houses_have_their_price_and_four_photographs(folder):
    found = load_houses(folder)
    assert [house.name for house in found.houses] == [str(n) for n in range(1, 26)]
    assert found.houses[4].price == 5000
    assert found.houses[4].photographs["kitchen"] == folder / "images" / "5_kitchen.jpg"
    assert found.left_out == ()
    sample = found.houses[4].sample("bedroom")
    assert (sample.label, sample.value) == ("5000", 5000.0)
    assert found.houses[4].sample("bedroom", 0.5).value == 0.5


def test_the_authors_own_layout_is_read(folder):
    (folder / "houses.csv").unlink()
    lines = [f"4 2.5 {n} 85255 {1000 * n}" for n in range(1, 26)]
    (folder / "HousesInfo.txt").write_text("\n".join(lines) + "\n")
    for photograph in (folder / "images").iterdir():
        photograph.rename(folder / photograph.name)
    found = load_houses(folder)
    assert [(house.name, house.price) for house in found.houses][:2] == [("1", 1000), ("2", 2000)]
    assert found.houses[0].photographs["frontal"] == folder / "1_frontal.jpg"


def test_a_house_without_all_photographs_is_left_out_and_named(folder):
    (folder / "images" / "7_bathroom.jpg").unlink()
    found = load_houses(folder)
    assert found.left_out == ("7",)
    assert len(found.houses) == 24


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("26,1,cheap", "line 27: 'cheap' is not a price"),
        ("26,1,0", "'0' is not a price"),
        ("26,1,-5", "'-5' is not a price"),
        ("26,1,nan", "'nan' is not a price"),
        ("26,1,inf", "'inf' is not a price"),
        ("26,1", "None is not a price"),
        ("3,1,500", "'3' is empty or named twice"),
        (",1,500", "'' is empty or named twice"),
    ],
)
def test_a_malformed_line_is_named(line, sentence, folder):
    with (folder / "houses.csv").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(FoldcamError, match=sentence):
        load_houses(folder)


def test_a_name_cannot_leave_the_folder(folder):
    with (folder / "houses.csv").open("a") as stream:
        stream.write("../../secret,1,500\n")
    assert load_houses(folder).left_out == ("../../secret",)


def test_a_folder_of_something_else_is_refused(tmp_path, folder):
    with pytest.raises(FoldcamError, match=r"neither houses.csv nor HousesInfo.txt"):
        load_houses(folder / "images")
    (folder / "houses.csv").write_text("house,price_usd\n1,3\n")
    with pytest.raises(FoldcamError, match="1 houses with all four"):
        load_houses(folder)
    (folder / "houses.csv").write_text("a,b\n1,3\n")
    with pytest.raises(FoldcamError, match="must name house and price_usd"):
        load_houses(folder)


def test_no_house_is_on_both_sides_and_the_seed_decides(folder):
    houses = load_houses(folder).houses
    training, test = split_houses(houses, 0)
    names = [{house.name for house in side} for side in (training, test)]
    assert (len(training), len(test)) == (20, 5)
    assert not names[0] & names[1]
    assert names[0] | names[1] == {house.name for house in houses}
    assert split_houses(houses, 0)[1] == test
    assert split_houses(houses, 1)[1] != test


def test_the_real_data_are_read(houses_root):
    found = load_houses(houses_root)
    assert len(found.houses) >= 400
    assert all(len(house.photographs) == 4 for house in found.houses)
