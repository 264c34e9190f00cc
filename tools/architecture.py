"""Draws the pictures of docs/architecture.md, and lists packages and rooms in it.

    python tools/architecture.py            # rewrite what differs
    python tools/architecture.py --check    # exit 1 and name what differs

Packages and rooms and the arrows between them are read from the imports of the sources. A room
is a folder of a package, with the folders in it; a package without folders is a room itself.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp
import networkx as nx
from diagram import Node, svg

ROOT = Path(__file__).resolve().parent.parent
# Installed as foldcam.export and so on; here they are named as the folders are.
PACKAGES = ("export", "runtime", "calibrate", "benchmarks")
DOCUMENT = ROOT / "docs" / "architecture.md"
IMAGES = ROOT / "docs" / "images"
NOT_INSTALLED = ("benchmarks/studies",)
_BLOCK = re.compile(r"(<!-- (rooms|sizes) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
# What the picture of the packages says of each.
PURPOSE = {
    "benchmarks": ("anywhere", "latency, overhead, localization, peers"),
    "calibrate": ("workstation", "INT8 behind a gate"),
    "export": ("workstation, torch", "network + images -> folded ONNX"),
    "runtime": ("device, no torch", "folded ONNX or engine -> heatmaps"),
}
_ONCE = "once, on the workstation"
_ALWAYS = "every frame, on the device: one ONNX graph"
HOW_IT_WORKS = (
    (
        Node("images", ("training images",), _ONCE),
        Node("embeddings", ("their embeddings",), _ONCE),
        Node(
            "directions",
            ("directions", "class mean - mean of the others:", "the mean of all triplets"),
            _ONCE,
        ),
        Node(
            "weights",
            ("grad-weights", "one head-only vector-Jacobian", "product per direction"),
            _ONCE,
        ),
        Node("bank", ("bank", "embedding, grad-weights, label"), _ONCE),
        Node("image", ("image",), _ALWAYS),
        Node("network", ("your network",), _ALWAYS),
        Node("map", ("feature map A",), _ALWAYS),
        Node("embedding", ("embedding",), _ALWAYS),
        Node("nearest", ("nearest bank row", "its label, its grad-weights a"), _ALWAYS),
        Node("heatmap", ("heatmap", "relu(sum of a_k A_k) / max"), _ALWAYS),
    ),
    (
        *(("images", "embeddings"), ("embeddings", "directions"), ("directions", "weights")),
        *(("embeddings", "bank"), ("weights", "bank"), ("bank", "nearest"), ("image", "network")),
        *(("network", "map"), ("network", "embedding"), ("embedding", "nearest")),
        *(("map", "heatmap"), ("nearest", "heatmap")),
    ),
)


@dataclass(frozen=True)
class Room:
    """Modules that belong together.

    Attributes:
        name: `package/folder`, or `package`; `package (loose)` for modules beside its folders.
        modules: their dotted names.
    """

    name: str
    modules: tuple[str, ...]

    @property
    def package(self) -> str:
        """The package it is in."""
        return re.split(r"[/ ]", self.name)[0]


def known_edges() -> dict[str, set[str]]:
    """Who imports whom, inside functions and for types too.

    The packages' own `__init__` and `__main__` are left out: they only list public names, and
    call a room.
    """
    graph = grimp.build_graph("foldcam", exclude_type_checking_imports=False, cache_dir=None)
    found = {
        module.removeprefix("foldcam."): {
            other.removeprefix("foldcam.")
            for other in graph.find_modules_directly_imported_by(module)
        }
        for module in graph.modules
    }
    left_out = {"foldcam", *PACKAGES, *(f"{package}.__main__" for package in PACKAGES)}
    return {
        module: found[module] - left_out
        for module in sorted(found)
        if module.split(".")[0] in PACKAGES and module not in left_out
    }


def rooms_of(imports: Mapping[str, set[str]]) -> dict[str, Room]:
    """The room of every module; one that lies loose beside rooms is in `package (loose)`."""
    folders = {tuple(module.split(".")[:2]) for module in imports if module.count(".") > 1}
    divided = {package for package, _ in folders}

    def name_of(module: str) -> str:
        package, second = module.split(".")[:2]
        if (package, second) in folders:
            return f"{package}/{second}"
        return f"{package} (loose)" if package in divided else package

    members: dict[str, list[str]] = defaultdict(list)
    for module in imports:
        members[name_of(module)].append(module)
    return {
        module: Room(name, tuple(sorted(inside)))
        for name, inside in members.items()
        for module in inside
    }


def room_graph(imports: Mapping[str, set[str]]) -> nx.DiGraph:
    """Rooms by name, an arrow where a module of one imports a module of another."""
    rooms = rooms_of(imports)
    graph = nx.DiGraph()
    graph.add_nodes_from(sorted({room.name for room in rooms.values()}))
    for module, others in imports.items():
        for other in others:
            if rooms[module].name != rooms[other].name:
                graph.add_edge(rooms[module].name, rooms[other].name)
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Rooms that import each other, directly or around."""
    found = (sorted(part) for part in nx.strongly_connected_components(graph))
    return sorted(part for part in found if len(part) > 1)


def packages_picture(imports: Mapping[str, set[str]]) -> str:
    """The four packages."""
    pairs = {
        (module.split(".")[0], other.split(".")[0])
        for module, others in imports.items()
        for other in others
    }
    nodes = [Node(name, (name, *PURPOSE[name]), PURPOSE[name][0]) for name in sorted(PACKAGES)]
    apart = nx.DiGraph((a, b) for a, b in pairs if a != b)
    return svg(nodes, apart.edges, "Which package imports which")


def rooms_picture(imports: Mapping[str, set[str]]) -> str:
    """The rooms of what is installed; arrows that follow from others are left out."""
    graph = room_graph(imports)
    graph.remove_nodes_from(NOT_INSTALLED)
    # Rooms that import each other stand in one box.
    joined = nx.condensation(graph)
    label = {number: sorted(joined.nodes[number]["members"]) for number in joined}
    reduced = nx.transitive_reduction(joined)
    nodes = [
        Node(label[number][0], tuple(label[number]), re.split(r"[/ ]", label[number][0])[0])
        for number in sorted(joined, key=lambda number: label[number])
    ]
    arrows = [(label[a][0], label[b][0]) for a, b in reduced.edges]
    return svg(nodes, arrows, "Which room imports which")


def how_it_works_picture() -> str:
    """The method as a flow of data."""
    nodes, arrows = HOW_IT_WORKS
    return svg(nodes, arrows, "How foldcam works: once on the workstation, and every frame")


def room_table(imports: Mapping[str, set[str]]) -> str:
    """Each room with what it is and what it imports, as Markdown."""
    graph, rooms = room_graph(imports), set(rooms_of(imports).values())
    lines = ["| room | what is in it | imports |", "|---|---|---|"]
    for room in sorted(rooms, key=lambda room: (PACKAGES.index(room.package), room.name)):
        near = ", ".join(sorted(graph.successors(room.name)))
        lines.append(f"| {room.name} | {_said_of(room)} | {near or 'nothing of ours'} |")
    return "\n".join(lines)


def _said_of(room: Room) -> str:
    """The first line of the folder's docstring; of loose modules their names."""
    package = ROOT / room.name / "__init__.py"
    if package.is_file():
        text = ast.get_docstring(ast.parse(package.read_text(encoding="utf-8")))
        return (text or "").splitlines()[0].replace("|", "\\|")
    return ", ".join(f"`{module.split('.')[-1]}`" for module in room.modules)


def size_table() -> str:
    """Each package with what it is for and its size, as Markdown.

    Lines are rounded to thousands and modules to tens, so that a change rarely outdates the page.
    """
    lines = [
        "| package | runs on | what it does | modules | lines of Python |",
        "|---|---|---|---|---|",
    ]
    others = {"benchmarks/studies": ("a checkout", "how the project's figures were measured")}
    others["tests"] = ("a checkout", "tests of every package, in folders of the same names")
    for name, (place, purpose) in {**PURPOSE, **others}.items():
        files = [
            path
            for path in (ROOT / name).rglob("*.py")
            if name in others or "studies" not in path.parts
        ]
        count = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
        lines.append(
            f"| `{name}` | {place} | {purpose} | {round(len(files), -1)} | {round(count, -3):,} |"
        )
    return "\n".join(lines)


def wanted() -> dict[Path, str]:
    """Every file that this program writes, with its text."""
    imports = known_edges()
    text = DOCUMENT.read_text(encoding="utf-8")
    tables = {"rooms": room_table(imports), "sizes": size_table()}
    return {
        IMAGES / "packages.svg": packages_picture(imports),
        IMAGES / "rooms.svg": rooms_picture(imports),
        IMAGES / "how-it-works.svg": how_it_works_picture(),
        DOCUMENT: _BLOCK.sub(lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}", text),
    }


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for path, text in wanted().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'differs from the sources' if check else 'rewritten'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
