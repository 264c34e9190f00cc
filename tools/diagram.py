"""A directed graph without circles as an SVG picture: boxes in layers, arrows downwards.

The usual four steps (Sugiyama, Tagawa and Toda 1981): layers by the longest path; long arrows
led through every layer that they cross; each layer ordered by the mean place of what its boxes
are joined to; boxes moved towards that mean as far as their neighbours allow. The same graph
gives the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import networkx as nx

_LETTER, _BOLD, _LINE, _PADDING = 6.9, 8.6, 17.0, 10.0
_GAP, _RISE, _MARGIN = 22.0, 46.0, 16.0
_SWEEPS = 12
_COLORS = ("#dbeafe", "#dcfce7", "#fef3c7", "#fce7f3", "#e5e7eb", "#ede9fe")


@dataclass(frozen=True)
class Node:
    """One box.

    Attributes:
        name: unique.
        lines: what is written in it; the first line is bold.
        group: boxes of one group have one colour, and the legend names it.
    """

    name: str
    lines: tuple[str, ...]
    group: str


@dataclass
class _Slot:
    """A place in a layer: a box, or where a long arrow passes."""

    width: float
    x: float = 0.0


def svg(nodes: Sequence[Node], edges: Iterable[tuple[str, str]], title: str) -> str:
    """The picture.

    Args:
        nodes: in the order in which equals are placed.
        edges: pairs of names `(from, to)`; `from` stands above `to`.
        title: for who cannot see it.

    Raises:
        ValueError: the edges run in a circle.
    """
    by_name = {node.name: node for node in nodes}
    wanted = sorted(set(edges))
    level = _levels(by_name, wanted)
    layers, paths, slots = _layers(by_name, wanted, level)
    neighbours = nx.Graph(pair for path in paths for pair in pairwise(path))
    neighbours.add_nodes_from(slots)
    _order(layers, neighbours)
    _place(layers, slots, neighbours)
    return _drawn(by_name, layers, paths, slots, title)


def _levels(nodes: Mapping[str, Node], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Height above the ground: one more than the highest box that an arrow leads to."""
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(edges)
    if not nx.is_directed_acyclic_graph(graph):
        circle = [upper for upper, _ in nx.find_cycle(graph)]
        raise ValueError(f"a circle: {' -> '.join([*circle, circle[0]])}")
    level: dict[str, int] = {}
    for name in reversed(list(nx.topological_sort(graph))):
        level[name] = max((level[below] + 1 for below in graph[name]), default=0)
    return level


def _layers(
    nodes: Mapping[str, Node], edges: Sequence[tuple[str, str]], level: Mapping[str, int]
) -> tuple[list[list[str]], list[list[str]], dict[str, _Slot]]:
    """Layers from the top down, each arrow as a path of slots, and the slots."""
    top = max(level.values(), default=0)
    layers: list[list[str]] = [[] for _ in range(top + 1)]
    slots: dict[str, _Slot] = {}
    for name, node in nodes.items():
        layers[top - level[name]].append(name)
        wide = max([len(node.lines[0]) * _BOLD, *(len(line) * _LETTER for line in node.lines[1:])])
        slots[name] = _Slot(wide + 2 * _PADDING)
    paths = []
    for upper, lower in edges:
        path = [upper]
        for height in range(level[upper] - 1, level[lower], -1):
            passing = f"{upper}>{lower}@{height}"
            slots[passing] = _Slot(2.0)
            layers[top - height].append(passing)
            path.append(passing)
        paths.append([*path, lower])
    return layers, paths, slots


def _order(layers: list[list[str]], neighbours: nx.Graph) -> None:
    """Order each layer by the mean place of the neighbours in the layer swept before."""
    for sweep in range(_SWEEPS):
        order = range(1, len(layers)) if sweep % 2 == 0 else range(len(layers) - 2, -1, -1)
        for index in order:
            fixed = layers[index - 1] if sweep % 2 == 0 else layers[index + 1]
            place = {name: number for number, name in enumerate(fixed)}
            layer = layers[index]
            mean = {}
            for number, name in enumerate(layer):
                near = [place[each] for each in neighbours[name] if each in place]
                mean[name] = sum(near) / len(near) if near else number
            layer.sort(key=lambda name, mean=mean: mean[name])  # type: ignore[misc]


def _place(layers: list[list[str]], slots: Mapping[str, _Slot], neighbours: nx.Graph) -> None:
    """Give every slot its centre, as near to its neighbours' as order and widths allow."""
    for layer in layers:
        _spread(layer, slots, [0.0] * len(layer))
    for _ in range(4 * _SWEEPS):
        for layer in layers:
            wanted = []
            for name in layer:
                near = [slots[each].x for each in neighbours[name]]
                wanted.append(sum(near) / len(near) if near else slots[name].x)
            _spread(layer, slots, wanted)


def _spread(layer: list[str], slots: Mapping[str, _Slot], wanted: list[float]) -> None:
    """Centres in order and apart: the mean of packing from the left and from the right."""

    def packed(sign: float) -> list[float]:
        places: list[float] = []
        last = 0.0
        steps = list(zip(layer, wanted, strict=True))
        for name, want in steps if sign > 0 else reversed(steps):
            place, width = sign * want, slots[name].width
            if places:
                place = max(place, places[-1] + last / 2 + _GAP + width / 2)
            places.append(place)
            last = width
        return places if sign > 0 else [-place for place in reversed(places)]

    for name, left, right in zip(layer, packed(1.0), packed(-1.0), strict=True):
        slots[name].x = (left + right) / 2


def _drawn(
    nodes: Mapping[str, Node],
    layers: list[list[str]],
    paths: list[list[str]],
    slots: Mapping[str, _Slot],
    title: str,
) -> str:
    groups = list(dict.fromkeys(node.group for node in nodes.values()))
    colors = {group: _COLORS[number % len(_COLORS)] for number, group in enumerate(groups)}
    left = min(slot.x - slot.width / 2 for slot in slots.values()) - _MARGIN
    right = max(slot.x + slot.width / 2 for slot in slots.values()) + _MARGIN
    legend = _MARGIN + sum(len(group) * _LETTER + 36 for group in groups)
    width = max(right - left, legend)
    shift = (width - (right - left)) / 2 - left
    box: dict[str, tuple[float, float, float]] = {}  # centre, top, height
    y = _MARGIN + 2 * _LINE
    for layer in layers:
        heights = [len(nodes[name].lines) * _LINE + _PADDING for name in layer if name in nodes]
        tall = max(heights, default=0.0)
        for name in layer:
            height = len(nodes[name].lines) * _LINE + _PADDING if name in nodes else tall
            box[name] = (slots[name].x + shift, y + (tall - height) / 2, height)
        y += tall + _RISE
    height = y - _RISE + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" '
        'font-size="13">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#64748b"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#ffffff"/>',
    ]
    x = _MARGIN
    for group in groups:
        parts.append(
            f'<rect x="{x:.1f}" y="{_MARGIN - 4:.1f}" width="14" height="14" rx="3" '
            f'fill="{colors[group]}" stroke="#64748b"/>'
            f'<text x="{x + 20:.1f}" y="{_MARGIN + 8:.1f}" fill="#334155">{escape(group)}</text>'
        )
        x += len(group) * _LETTER + 36
    parts += [
        f'<path d="{_curve([box[name] for name in path])}" fill="none" stroke="#64748b" '
        'stroke-width="1.2" marker-end="url(#tip)"/>'
        for path in paths
    ]
    for name, node in nodes.items():
        centre, top, tall = box[name]
        span = slots[name].width
        parts.append(
            f'<rect x="{centre - span / 2:.1f}" y="{top:.1f}" width="{span:.1f}" '
            f'height="{tall:.1f}" rx="6" fill="{colors[node.group]}" stroke="#64748b"/>'
        )
        for number, line in enumerate(node.lines):
            bold = ' font-weight="600"' if number == 0 else ""
            parts.append(
                f'<text x="{centre:.1f}" y="{top + _PADDING / 2 + 13 + number * _LINE:.1f}" '
                f'text-anchor="middle" fill="#0f172a"{bold}>{escape(line)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _curve(places: Sequence[tuple[float, float, float]]) -> str:
    """From the lower edge of the first place, through others, to the upper edge of the last."""
    path = ""
    for (x, top, tall), (next_x, next_top, _) in pairwise(places):
        y = top + tall
        half = (y + next_top) / 2
        path += f"{'L' if path else 'M'}{x:.1f} {y:.1f}"
        path += f"C{x:.1f} {half:.1f} {next_x:.1f} {half:.1f} {next_x:.1f} {next_top:.1f}"
    return path
