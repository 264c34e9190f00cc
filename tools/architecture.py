"""Draws the pictures of docs/architecture.md, and lists the rooms in it.

    python tools/architecture.py            # rewrite what differs
    python tools/architecture.py --check    # exit 1 and name what differs

Packages and rooms and the arrows between them are read from the imports of the sources. A room
is a folder of a package. Modules that lie in a package itself are its base if they reach none of
its rooms, its top if no room reaches them, and its middle otherwise.
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

import networkx as nx
from diagram import Node, svg
from imports import PACKAGES, ROOT, edges, modules, parsed

DOCUMENT = ROOT / "docs" / "architecture.md"
IMAGES = ROOT / "docs" / "images"
# What this program writes.
FILES = (*(IMAGES / f"{name}.svg" for name in ("packages", "rooms", "how-it-works")), DOCUMENT)
_BLOCK = re.compile(r"(<!-- rooms -->\n).*?(<!-- /rooms -->)", re.DOTALL)
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
        name: `package/folder`, or `package`, with `(base)`, `(middle)` or `(top)` where the
            package has folders.
        modules: their dotted names.
    """

    name: str
    modules: tuple[str, ...]

    @property
    def package(self) -> str:
        """The package it is in."""
        return re.split(r"[/ ]", self.name)[0]


def known_edges(root: Path = ROOT) -> dict[str, set[str]]:
    """Who imports whom, without the packages' own `__init__`, which only list public names."""
    found = edges(modules(root))
    return {
        module: imported - set(PACKAGES)
        for module, imported in found.items()
        if module not in PACKAGES
    }


def rooms_of(imports: Mapping[str, set[str]]) -> dict[str, Room]:
    """The room of every module."""
    folders = {".".join(module.split(".")[:2]) for module in imports if module.count(".") > 1}
    graph = nx.DiGraph((a, b) for a, others in imports.items() for b in others)
    graph.add_nodes_from(imports)

    def name_of(module: str) -> str:
        package, second = module.split(".")[:2]
        if f"{package}.{second}" in folders:
            return f"{package}/{second}"
        inner = {folder for folder in folders if folder.startswith(f"{package}.")}
        if not inner:
            return package

        def in_rooms(others: set[str]) -> bool:
            return any(".".join(other.split(".")[:2]) in inner for other in others)

        if not in_rooms(nx.descendants(graph, module)):
            return f"{package} (base)"
        return f"{package} ({'middle' if in_rooms(nx.ancestors(graph, module)) else 'top'})"

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
    """The rooms of what users run; arrows that follow from others are left out."""
    graph = room_graph(imports)
    graph.remove_nodes_from([name for name in graph if name.startswith("benchmarks")])
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
    known = modules()
    folder = room.name.replace("/", ".")
    if folder in known:
        text = ast.get_docstring(parsed(known[folder]))
        return (text or "").splitlines()[0].replace("|", "\\|")
    return ", ".join(f"`{module.split('.')[-1]}`" for module in room.modules)


def wanted() -> dict[Path, str]:
    """Every file that this program writes, with its text."""
    imports = known_edges()
    text = DOCUMENT.read_text(encoding="utf-8")
    return {
        IMAGES / "packages.svg": packages_picture(imports),
        IMAGES / "rooms.svg": rooms_picture(imports),
        IMAGES / "how-it-works.svg": how_it_works_picture(),
        DOCUMENT: _BLOCK.sub(lambda found: f"{found[1]}{room_table(imports)}\n{found[2]}", text),
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
