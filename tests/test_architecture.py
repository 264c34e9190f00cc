"""The pictures of the architecture page say what the imports say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import architecture
import diagram
import pytest
from imports import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
# Rooms that import each other and should not.
KNOWN_CIRCLES: list[list[str]] = []

# Of each package: two loose modules, one room; `b.low` is under the room and `b.high` over it.
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


@pytest.fixture(scope="module")
def known_edges():
    return architecture.known_edges()


@pytest.fixture(scope="module")
def wanted():
    found = architecture.wanted()
    assert set(found) == set(architecture.FILES)
    return found


@pytest.mark.parametrize("path", architecture.FILES, ids=lambda path: path.name)
def test_pictures_and_table_are_those_of_the_imports(path, wanted):
    assert path.read_text(encoding="utf-8") == wanted[path], f"{path.name} is stale: make figures"


def test_every_module_and_file_that_the_page_names_exists(known_edges):
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    text = text[: text.index("<!-- rooms -->")] + text[text.index("<!-- /rooms -->") :]
    stems = {module.rpartition(".")[2] for module in known_edges}
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


def test_no_rooms_import_each_other_in_a_circle_that_is_not_known(known_edges):
    graph = architecture.room_graph(known_edges)
    assert architecture.circles(graph) == KNOWN_CIRCLES


def test_loose_modules_are_base_or_top_by_what_they_reach():
    rooms = architecture.rooms_of(IMPORTS)
    assert {module: room.name for module, room in rooms.items()} == {
        "a.cli": "a",
        "b.high": "b (top)",
        "b.low": "b (base)",
        "b.room.one": "b/room",
        "b.room.two": "b/room",
    }
    graph = architecture.room_graph(IMPORTS)
    assert set(graph.edges) == {("a", "b (top)"), ("b (top)", "b/room"), ("b/room", "b (base)")}
    assert architecture.circles(graph) == []


def test_an_arrow_that_follows_from_others_is_left_out_of_the_picture():
    imports = {**IMPORTS, "a.cli": {"b.high", "b.low"}}
    text = architecture.rooms_picture(imports)
    assert {"a", "b (top)", "b/room", "b (base)"} <= set(names(text))
    assert arrows(text) == 3


def test_rooms_that_import_each_other_stand_in_one_box():
    imports = {"a.cli": {"b.one.x"}, "b.one.x": {"b.two.y"}, "b.two.y": {"b.one.x"}}
    assert architecture.circles(architecture.room_graph(imports)) == [["b/one", "b/two"]]
    assert arrows(architecture.rooms_picture(imports)) == 1


def test_every_package_is_in_the_picture_of_packages(known_edges):
    text = architecture.packages_picture(known_edges)
    assert set(PACKAGES) <= set(names(text))


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
