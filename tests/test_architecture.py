"""The pictures of the architecture page say what the imports say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import architecture
import diagram
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Rooms that import each other and should not.
KNOWN_CIRCLES: list[list[str]] = []

# `a` has no folders; `b` has one, and two modules beside it.
IMPORTS = {
    "a.cli": {"b.high"},
    "b.high": {"b.room.one"},
    "b.low": set(),
    "b.room.one": {"b.low", "b.room.two"},
    "b.room.two": set(),
}


def names(text: str) -> list[str]:
    """What is written in a picture."""
    root = ElementTree.fromstring(text)
    return [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]


def arrows(text: str) -> int:
    """How many arrows a picture has."""
    return text.count("marker-end")


@pytest.mark.parametrize("path", architecture.wanted(), ids=lambda path: path.name)
def test_pictures_and_table_are_those_of_the_imports(path):
    wanted = architecture.wanted()[path]
    assert path.read_text(encoding="utf-8") == wanted, f"{path.name} is stale: make figures"


def test_every_module_and_file_that_the_page_names_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    text = text[: text.index("<!-- rooms -->")] + text[text.index("<!-- /rooms -->") :]
    stems = {module.rpartition(".")[2] for module in architecture.known_edges()}
    tables = [row for row in text.splitlines() if row.startswith("|")]
    for row in tables:
        *_, where = row.strip("| ").split(" | ")
        for name in re.findall(r"`([\w*]+)`", where):
            assert any(re.fullmatch(name.replace("*", ".*"), stem) for stem in stems), name
    for name in re.findall(r"`((?:export|runtime|tests|benchmarks)/[\w/.]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:export|runtime)\.\w+)`", text):
        path = ROOT / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), name


def test_no_rooms_import_each_other_in_a_circle_that_is_not_known():
    graph = architecture.room_graph(architecture.known_edges())
    assert architecture.circles(graph) == KNOWN_CIRCLES


def test_a_folder_is_a_room_with_all_that_is_in_it():
    rooms = architecture.rooms_of({**IMPORTS, "b.room.deep.three": set()})
    assert {module: room.name for module, room in rooms.items()} == {
        "a.cli": "a",
        "b.high": "b (loose)",
        "b.low": "b (loose)",
        "b.room.one": "b/room",
        "b.room.two": "b/room",
        "b.room.deep.three": "b/room",
    }


def test_few_rooms_are_installed_and_no_module_lies_beside_them():
    rooms = {room.name for room in architecture.rooms_of(architecture.known_edges()).values()}
    assert not [name for name in rooms if name.endswith("(loose)")]
    assert len(rooms - set(architecture.NOT_INSTALLED)) <= 25


def test_an_arrow_that_follows_from_others_is_left_out_of_the_picture():
    imports = {
        "a.cli": {"b.high.one", "b.low.two"},
        "b.high.one": {"b.low.two"},
        "b.low.two": set(),
    }
    text = architecture.rooms_picture(imports)
    assert {"a", "b/high", "b/low"} <= set(names(text))
    assert arrows(text) == 2


def test_rooms_that_import_each_other_stand_in_one_box():
    imports = {"a.cli": {"b.one.x"}, "b.one.x": {"b.two.y"}, "b.two.y": {"b.one.x"}}
    assert architecture.circles(architecture.room_graph(imports)) == [["b/one", "b/two"]]
    assert arrows(architecture.rooms_picture(imports)) == 1


def test_every_package_is_in_the_picture_of_packages():
    text = architecture.packages_picture(architecture.known_edges())
    assert set(architecture.PACKAGES) <= set(names(text))


def test_boxes_of_a_layer_stand_apart_and_arrows_lead_down():
    nodes = [diagram.Node(name, (name * 9,), "g") for name in "abcde"]
    text = diagram.svg(nodes, [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("a", "d")], "t")
    boxes = [
        tuple(map(float, found))
        for found in re.findall(
            r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)" rx="6"', text
        )
    ]
    assert len(boxes) == 5
    for number, (x, y, width, _) in enumerate(boxes):
        for other, other_y, other_width, _ in boxes[number + 1 :]:
            assert y != other_y or x + width < other or other + other_width < x
    a, b, c, d = (y for _, y, _, _ in boxes[:4])
    assert a < b == c < d
    assert text == diagram.svg(
        nodes, [("a", "d"), ("c", "d"), ("b", "d"), ("a", "c"), ("a", "b")], "t"
    )


def test_a_circle_is_named():
    nodes = [diagram.Node(name, (name,), "g") for name in "abc"]
    with pytest.raises(ValueError, match="a circle: b -> c -> b"):
        diagram.svg(nodes, [("a", "b"), ("b", "c"), ("c", "b")], "t")
