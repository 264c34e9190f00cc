"""A graph that was exported for one batch size, made to take any, and proven image by image.

The graph runs node by node on one image and on three. Where the three do not come out as
the one does, the batch is baked into a constant there: a handful of rewrites are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.onnx_graph import PREPARED, Flow, place_of
from export.onnx_session import Array, NodeRunner
from runtime.contract import IMAGE
from runtime.errors import FoldcamError

MANY = 3
_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Where"}
# How many numbers they return depends on what the numbers are.
_DATA_DEPENDENT = {"NonZero", "Compress", "NonMaxSuppression", "Unique", "StringSplit"}


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
class _Values:
    """Values by name, on the unit's images and on several times as many."""

    few: dict[str, Array] = field(default_factory=dict)
    many: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rewrite:
    """Nodes that take the place of one, and the constants they need."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, Array]


def open_batch(model: onnx.ModelProto, images: Array, unit: int) -> dict[str, Shape]:
    """Make the batch dynamic.

    Args:
        model: with the input `image`; nodes are rewritten in place where needed.
        images: `MANY` times `unit` images, all different.
        unit: images in the batch that the file was made for, 1 where it is open.

    Returns:
        The shape of every value that depends on the image.

    Raises:
        FoldcamError: a node mixes the images of a batch, or a shape depends on their values.
    """
    flow = Flow(model.graph)
    runner = NodeRunner(model.opset_import, model.ir_version)
    weights = {str(t.name): numpy_helper.to_array(t) for t in model.graph.initializer}
    values = _Values({**weights, IMAGE: images[:unit]}, {**weights, IMAGE: images})
    shapes = {IMAGE: Shape(images[:unit].shape, 0, unit)}
    last_use = {name: n for n, names in enumerate(flow.inputs) for name in names}
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(flow.nodes):
        names = [str(name) for name in node.output if name]
        if all(name in flow.fixed for name in names):
            found = runner.run(node, values.few)
            values.few.update(found)
            values.many.update(found)
            nodes.append(node)
        else:
            _refuse_data_dependent(node, flow)
            rewrite = _fitting(node, flow, runner, values, shapes, unit)
            nodes.extend(rewrite.nodes)
            model.graph.initializer.extend(
                numpy_helper.from_array(value, name) for name, value in rewrite.constants.items()
            )
            for name in names:
                shapes[name] = _shape(values.few[name], values.many[name], unit)
        for name in set(flow.inputs[number]):
            if last_use[name] == number:
                values.few.pop(name, None)
                values.many.pop(name, None)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return shapes


def _refuse_data_dependent(node: onnx.NodeProto, flow: Flow) -> None:
    if node.op_type in _DATA_DEPENDENT and any(flow.holds_image(name) for name in node.output):
        raise FoldcamError(
            f"The shape of what {node.op_type} (node {place_of(node)}) returns depends on the "
            "image's values, and a folded model needs fixed shapes: export the network without it."
        )


def _fitting(
    node: onnx.NodeProto,
    flow: Flow,
    runner: NodeRunner,
    values: _Values,
    shapes: Mapping[str, Shape],
    unit: int,
) -> _Rewrite:
    """The node itself, or the first rewrite of it whose batch comes out as its images do.

    Its outputs are added to the values.
    """
    carries = any(name in shapes and shapes[name].axis is not None for name in node.input)
    must = carries and any(flow.holds_image(str(name)) for name in node.output)
    few = runner.run(node, values.few)
    own = _Rewrite([node], {})
    choices = [own, *_rewrites(node, few, values, shapes, unit)]
    if _absorbs_batch(node, few, runner, values, shapes):
        choices.append(choices.pop(0))
    for rewrite in choices:
        try:
            found = few if rewrite is own else _run(rewrite, runner, values.few)
            many = _run(rewrite, runner, values.many)
        except FoldcamError:
            continue
        if all(_follows(found[name], many[name], must) for name in node.output if name):
            values.few.update(found)
            values.many.update(many)
            return rewrite
    raise FoldcamError(
        f"The network was made for a batch of {unit} and cannot take another: {node.op_type} (node "
        f"{place_of(node)}) mixes or drops images; export it with a dynamic first dimension."
    )


def _absorbs_batch(
    node: onnx.NodeProto,
    few: Mapping[str, Array],
    runner: NodeRunner,
    values: _Values,
    shapes: Mapping[str, Shape],
) -> bool:
    """Whether a Reshape such as [1, -1] puts all images of a batch into one row."""
    if node.op_type != "Reshape" or node.input[0] not in shapes:
        return False
    axis = shapes[node.input[0]].axis
    name = str(node.output[0])
    if axis is None:
        return False
    try:
        many = runner.run(node, values.many)[name]
    except FoldcamError:
        return False
    sizes, unit = few[name].shape, shapes[IMAGE].unit
    grown = [at for at, size in enumerate(sizes) if many.shape[at] != size]
    return bool(grown) and sizes[grown[0]] != unit and unit in sizes[: grown[0]]


def _run(rewrite: _Rewrite, runner: NodeRunner, values: Mapping[str, Array]) -> dict[str, Array]:
    known = {**values, **rewrite.constants}
    found: dict[str, Array] = {}
    for node in rewrite.nodes:
        found.update(runner.run(node, {**known, **found}))
    return found


def _rewrites(
    node: onnx.NodeProto,
    few: Mapping[str, Array],
    values: _Values,
    shapes: Mapping[str, Shape],
    unit: int,
) -> Iterator[_Rewrite]:
    axis = shapes[node.input[0]].axis if node.input and node.input[0] in shapes else None
    output = str(node.output[0]) if node.output else ""
    if node.op_type == "Reshape" and axis is not None:
        batch = values.few[node.input[0]].shape[axis]
        yield from _reshapes(node, few[output].shape, (unit, batch))
    elif node.op_type == "Squeeze" and len(node.input) == 1 and axis is not None:
        sizes = values.few[node.input[0]].shape
        axes = [at for at, size in enumerate(sizes) if size == 1 and at != axis]
        yield _with_input(node, 1, np.asarray(axes, np.int64))
    elif node.op_type == "Concat":
        yield _expanded_concat(node, values, shapes)
    elif node.op_type in _ELEMENTWISE:
        yield from _repeated(node, values, shapes)
    elif node.op_type == "Resize" and len(node.input) == 4 and node.input[3] and axis == 0:
        yield _resize(node, values.few[node.input[3]])


def _reshapes(
    node: onnx.NodeProto, sizes: tuple[int, ...], likely: tuple[int, int]
) -> Iterator[_Rewrite]:
    """The batch in each place in turn, first where there are as many as images, or rows before."""
    images, rows = likely
    places = sorted(
        range(len(sizes)), key=lambda place: (sizes[place] != images, sizes[place] != rows)
    )
    for place in places:
        target = [-1 if at == place else size for at, size in enumerate(sizes)]
        rewrite = _with_input(node, 1, np.asarray(target, np.int64))
        del rewrite.nodes[0].attribute[:]
        yield rewrite


def _expanded_concat(
    node: onnx.NodeProto, values: _Values, shapes: Mapping[str, Shape]
) -> _Rewrite:
    """Constants beside a batch, such as a class token, are repeated for each image."""
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    carrying = [name for name in node.input if name in shapes and shapes[name].axis is not None]
    if not carrying:
        return _Rewrite([changed], {})
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
            nodes.append(helper.make_node("Expand", [name, size], [target], target))
            changed.input[position] = target
    return _Rewrite([*nodes, changed], constants)


def _repeated(
    node: onnx.NodeProto, values: _Values, shapes: Mapping[str, Shape]
) -> Iterator[_Rewrite]:
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
        constants = {
            f"{stem}.rows": np.asarray([rows], np.int64),
            f"{stem}.before": ones[:place],
            f"{stem}.after": ones[place + 1 :],
        }
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
        yield _Rewrite(nodes, constants)


def _resize(node: onnx.NodeProto, sizes: Array) -> _Rewrite:
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
    return _Rewrite(nodes, {f"{stem}.rest": np.asarray(sizes[1:], np.int64)})


def _with_input(node: onnx.NodeProto, position: int, value: Array) -> _Rewrite:
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    name = f"{PREPARED}batch.{node.output[0]}"
    del changed.input[position:]
    changed.input.append(name)
    return _Rewrite([changed], {name: value})


def _shape(few: Array, many: Array, unit: int) -> Shape:
    grown = [at for at, size in enumerate(few.shape) if many.shape[at] != size]
    return Shape(few.shape, grown[0] if grown else None, unit)


def _follows(few: Array, many: Array, must: bool) -> bool:
    """Whether the first images of a batch come out as they do without the others.

    Args:
        few, many: one value in both batches.
        must: whether it has to grow with the batch.
    """
    if few.ndim != many.ndim:
        return False
    grown = [at for at, size in enumerate(few.shape) if many.shape[at] != size]
    if not grown:
        return not must
    (axis, *others) = grown
    rows = few.shape[axis]
    if others or many.shape[axis] != MANY * rows:
        return False
    # Rows of one image lie together, or those of all images at one place do.
    together = np.take(many, range(rows), axis)
    apart = np.take(many, range(0, MANY * rows, MANY), axis)
    return _equal(few, together) or _equal(few, apart)


def _equal(a: Array, b: Array) -> bool:
    if a.dtype.kind != "f":
        return a.dtype.kind in "iub" and bool((a == b).mean() > 0.99)
    tolerance = 2e-2 if a.dtype == np.float16 else 1e-3
    size = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    return bool(np.allclose(a, b, rtol=0, atol=tolerance * size + 1e-6, equal_nan=True))
