"""Ways to free a node of the batch that was baked into its constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import helper

from foldcam.export.onnx_graphs.session import Array
from foldcam.export.onnx_graphs.values import PREPARED

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Where"}


@dataclass(frozen=True)
class Shape:
    """A value's shape for every batch.

    Attributes:
        sizes: in a batch of `unit`.
        axis: the dimension that grows with the batch, None where none does.
        unit: images in the batch that the file was made for.
    """

    sizes: tuple[int, ...]
    axis: int | None
    unit: int

    def at(self, count: int) -> tuple[int, ...]:
        """The shape in a batch of `count`."""
        return tuple(
            size * count // self.unit if axis == self.axis else size
            for axis, size in enumerate(self.sizes)
        )

    @property
    def per_image(self) -> tuple[int, ...] | None:
        """Without the batch, None where the first dimension is not one row per image."""
        leading = self.axis == 0 and self.sizes[0] == self.unit
        return self.sizes[1:] if leading else None


@dataclass
class Values:
    """Values by name, on the unit's images and on several times as many."""

    few: dict[str, Array] = field(default_factory=dict)
    many: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Rewrite:
    """Nodes that take the place of one.

    Attributes:
        nodes: in order; the last has the outputs of the one they replace.
        constants: that they need, by name.
        unlikely: whether to take it only where nothing else fits.
    """

    nodes: list[onnx.NodeProto]
    constants: dict[str, Array]
    unlikely: bool = False


def rewrites(
    node: onnx.NodeProto,
    few: Mapping[str, Array],
    values: Values,
    shapes: Mapping[str, Shape],
    unit: int,
) -> Iterator[Rewrite]:
    """What may take the place of a node, likeliest first."""
    axis = shapes[node.input[0]].axis if node.input and node.input[0] in shapes else None
    output = str(node.output[0]) if node.output else ""
    if node.op_type == "Reshape" and axis is not None:
        batch = values.few[node.input[0]].shape[axis]
        yield from _reshapes(node, few[output].shape, (unit, batch))
    elif node.op_type == "Squeeze" and len(node.input) == 1 and axis is not None:
        sizes = values.few[node.input[0]].shape
        axes = [at for at, size in enumerate(sizes) if size == 1 and at != axis]
        # No axes at all would mean every one of them.
        same = helper.make_node("Identity", [node.input[0]], [output], node.name)
        yield _with_input(node, 1, np.asarray(axes, np.int64)) if axes else Rewrite([same], {})
    elif node.op_type == "Concat":
        yield _expanded_concat(node, values, shapes)
    elif node.op_type == "Expand" and axis is not None:
        yield from _expand(node, values, axis)
    elif node.op_type in _ELEMENTWISE:
        yield from _repeated(node, values, shapes)
    elif node.op_type == "Resize" and len(node.input) == 4 and node.input[3] and axis == 0:
        yield _resize(node, values.few[node.input[3]])


def _reshapes(
    node: onnx.NodeProto, sizes: tuple[int, ...], likely: tuple[int, int]
) -> Iterator[Rewrite]:
    """The batch in each place in turn, first where there are as many as images, or rows before.

    Last comes the last place, which is that of the channels.
    """
    images, rows = likely
    last = len(sizes) - 1
    places = sorted(
        range(len(sizes)),
        key=lambda place: (0 < place == last, sizes[place] != images, sizes[place] != rows),
    )
    for place in places:
        target = [-1 if at == place else size for at, size in enumerate(sizes)]
        rewrite = _with_input(node, 1, np.asarray(target, np.int64))
        del rewrite.nodes[0].attribute[:]
        yield replace(rewrite, unlikely=0 < place == last)


def _expanded_concat(node: onnx.NodeProto, values: Values, shapes: Mapping[str, Shape]) -> Rewrite:
    """Constants beside a batch, such as a class token, are repeated for each image."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    carrying = [name for name in node.input if name in shapes and shapes[name].axis is not None]
    if not carrying:
        return Rewrite([changed], {})
    batch = shapes[carrying[0]].axis
    assert batch is not None
    stem = f"{PREPARED}batch.{node.output[0]}"
    size, ones = f"{stem}.size", np.ones(values.few[carrying[0]].ndim, np.int64)
    constants = {f"{stem}.before": ones[:batch], f"{stem}.after": ones[batch + 1 :]}
    nodes = [
        helper.make_node("Shape", [carrying[0]], [f"{stem}.n"], size, start=batch, end=batch + 1),
        helper.make_node(
            "Concat", [f"{stem}.before", f"{stem}.n", f"{stem}.after"], [size], f"{size}s", axis=0
        ),
    ]
    for position, name in enumerate(node.input):
        if name not in carrying:
            target = f"{stem}.{position}"
            shared = _one_image(values.few[name], batch, shapes[carrying[0]].unit)
            if shared is not None:
                name = f"{target}.row"
                constants[name] = shared
            nodes.append(helper.make_node("Expand", [name, size], [target], target))
            changed.input[position] = target
    return Rewrite([*nodes, changed], constants)


def _repeated(
    node: onnx.NodeProto, values: Values, shapes: Mapping[str, Shape]
) -> Iterator[Rewrite]:
    """A constant for each window of one image is repeated for each image."""
    carrying = next((name for name in node.input if name in shapes), None)
    axis = None if carrying is None else shapes[carrying].axis
    if carrying is None or axis is None:
        return
    from_end = axis - values.few[carrying].ndim
    rows = values.few[carrying].shape[axis]
    for position, name in enumerate(node.input):
        constant = values.few[name]
        if name == carrying or constant.ndim < -from_end or constant.shape[from_end] != rows:
            continue
        stem = f"{PREPARED}batch.{node.output[0]}"
        place = constant.ndim + from_end
        ones = np.ones(constant.ndim, np.int64)
        shared = _one_image(constant, place, shapes[carrying].unit)
        constants = {
            f"{stem}.rows": np.asarray([rows], np.int64),
            f"{stem}.before": ones[:place],
            f"{stem}.after": ones[place + 1 :],
        }
        if shared is not None:
            # Made for several images: one image's part, or fewer images could not be served.
            name = f"{stem}.one"
            constants[name] = shared
            constants[f"{stem}.rows"] = np.asarray([shared.shape[place]], np.int64)
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[position] = f"{stem}.repeated"
        parts = [f"{stem}.before", f"{stem}.images", f"{stem}.after"]
        nodes = [
            helper.make_node("Shape", [carrying], [f"{stem}.n"], start=axis, end=axis + 1),
            helper.make_node(
                "Div", [f"{stem}.n", f"{stem}.rows"], [f"{stem}.images"], f"{stem}.images"
            ),
            helper.make_node("Concat", parts, [f"{stem}.times"], f"{stem}.times", axis=0),
            helper.make_node(
                "Tile", [name, f"{stem}.times"], [f"{stem}.repeated"], f"{stem}.repeated"
            ),
            changed,
        ]
        yield Rewrite(nodes, constants)


def _expand(node: onnx.NodeProto, values: Values, axis: int) -> Iterator[Rewrite]:
    """A 1 in the place of the batch: Expand leaves that dimension as it is."""
    sizes = np.array(values.few[node.input[1]], np.int64)
    place = len(sizes) + axis - values.few[node.input[0]].ndim
    if place >= 0:
        sizes[place] = 1
        yield _with_input(node, 1, sizes)


def _one_image(constant: Array, axis: int, unit: int) -> Array | None:
    """The part of a constant that is one image's, where it is the same for all `unit` images."""
    rows = constant.shape[axis] if axis < constant.ndim else 0
    if unit == 1 or rows == 0 or rows % unit:
        return None
    first, *others = np.split(constant, unit, axis)
    return first if all(np.array_equal(first, other) for other in others) else None


def _resize(node: onnx.NodeProto, sizes: Array) -> Rewrite:
    """The target size with the batch's own number of images in front."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    stem = f"{PREPARED}batch.{node.output[0]}"
    changed.input[3] = f"{stem}.sizes"
    nodes = [
        helper.make_node("Shape", [node.input[0]], [f"{stem}.n"], f"{stem}.n", start=0, end=1),
        helper.make_node(
            "Concat", [f"{stem}.n", f"{stem}.rest"], [f"{stem}.sizes"], f"{stem}.sizes", axis=0
        ),
        changed,
    ]
    return Rewrite(nodes, {f"{stem}.rest": np.asarray(sizes[1:], np.int64)})


def _with_input(node: onnx.NodeProto, position: int, value: Array) -> Rewrite:
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    name = f"{PREPARED}batch.{node.output[0]}"
    del changed.input[position:]
    changed.input.append(name)
    return Rewrite([changed], {name: value})
