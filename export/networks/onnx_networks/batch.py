"""A graph that was exported for one batch size, made to take any, and proven image by image.

The graph runs node by node on one image and on three. Where the three do not come out as
the one does, the batch is baked into a constant there: a handful of rewrites are tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from foldcam.export.networks.onnx_networks.rewrite import Rewrite, Shape, Values, rewrites
from foldcam.export.onnx_graphs.session import Array, NodeRunner
from foldcam.export.onnx_graphs.values import Flow, place_of, refill
from foldcam.runtime.contract.schema import IMAGE
from foldcam.runtime.system.errors import FoldcamError

MANY = 3
# How many numbers they return depends on what the numbers are.
_DATA_DEPENDENT = {"NonZero", "Compress", "NonMaxSuppression", "Unique", "StringSplit"}


def open_batch(
    model: onnx.ModelProto, images: Array, unit: int, *, is_open: bool
) -> dict[str, Shape]:
    """Make the batch dynamic.

    Args:
        unit: images in the batch that the file was made for, 1 where it is open.
    """
    flow = Flow(model.graph)
    runner = NodeRunner(model.opset_import, model.ir_version)
    weights = {str(t.name): numpy_helper.to_array(t) for t in model.graph.initializer}
    values = Values({**weights, IMAGE: images[:unit]}, {**weights, IMAGE: images})
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
            _refuse_training(node)
            rewrite = _fitting(node, flow, runner, values, shapes, unit)
            if rewrite is None:
                raise FoldcamError(_blame(node, runner, values, None if is_open else unit))
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
    refill(model.graph.node, nodes)
    return shapes


def _refuse_data_dependent(node: onnx.NodeProto, flow: Flow) -> None:
    if node.op_type in _DATA_DEPENDENT and any(flow.holds_image(name) for name in node.output):
        raise FoldcamError(
            f"The shape of what {node.op_type} (node {place_of(node)}) returns depends on the "
            "image's values, and a folded model needs fixed shapes: export the network without it."
        )


def _refuse_training(node: onnx.NodeProto) -> None:
    if node.op_type == "BatchNormalization" and any(
        attribute.name == "training_mode" and attribute.i for attribute in node.attribute
    ):
        raise FoldcamError(
            f"BatchNormalization (node {place_of(node)}) is in training mode, where each image's "
            "embedding depends on the others of its batch: export the network after eval()."
        )


def _fitting(
    node: onnx.NodeProto,
    flow: Flow,
    runner: NodeRunner,
    values: Values,
    shapes: Mapping[str, Shape],
    unit: int,
) -> Rewrite | None:
    """The node itself, or the first rewrite of it whose batch comes out as its images do.

    Its outputs are added to the values. None where nothing fits.
    """
    carries = any(name in shapes and shapes[name].axis is not None for name in node.input)
    must = carries and any(flow.holds_image(str(name)) for name in node.output)
    few = runner.run(node, values.few)
    own = Rewrite([node], {})
    choices = [own, *rewrites(node, few, values, shapes, unit)]
    if _absorbs_batch(node, few, runner, values, shapes):
        own = replace(choices.pop(0), unlikely=True)
        choices.append(own)
    fallback: tuple[Rewrite, dict[str, Array], dict[str, Array]] | None = None
    for rewrite in choices:
        if rewrite.unlikely and fallback is not None:
            break
        try:
            found = few if rewrite is own else _run(rewrite, runner, values.few)
            many = _run(rewrite, runner, values.many)
        except FoldcamError:
            continue
        outputs = [str(name) for name in node.output if name]
        if all(_follows(found[name], many[name], must) for name in outputs):
            values.few.update(found)
            values.many.update(many)
            return rewrite
        apart = all(_follows(found[name], many[name], must, apart=True) for name in outputs)
        if apart and fallback is None:
            fallback = rewrite, found, many
    if fallback is not None:
        # Rows of different images take turns, as in [positions * images, channels].
        rewrite, found, many = fallback
        values.few.update(found)
        values.many.update(many)
        return rewrite
    return None


def _blame(node: onnx.NodeProto, runner: NodeRunner, values: Values, made_for: int | None) -> str:
    """Why a node keeps the batch from being opened.

    Args:
        made_for: the batch that the file is written for, None where it leaves it open.
    """
    place = f"{node.op_type} (node {place_of(node)})"
    if made_for is not None:
        return (
            f"The network was made for a batch of {made_for} and cannot take another: {place} "
            "mixes or drops images; export it with a dynamic first dimension."
        )
    try:
        runner.run(node, values.many)
    except FoldcamError as error:
        return (
            f"The network leaves its batch open, but {place} takes one image at a time "
            f"({str(error).rstrip('.')}): let its sizes follow the image's first dimension."
        )
    return (
        f"{place} mixes or drops images of a batch, so that an image's embedding would depend on "
        "the others beside it: export the network without that node."
    )


def _absorbs_batch(
    node: onnx.NodeProto,
    few: Mapping[str, Array],
    runner: NodeRunner,
    values: Values,
    shapes: Mapping[str, Shape],
) -> bool:
    """Whether a Reshape such as [1, -1] or [17, -1] puts all images into one row."""
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
    if not grown or sizes[grown[0]] == unit:
        return False
    return unit in sizes[: grown[0]] or 0 < grown[0] == len(sizes) - 1


def _run(rewrite: Rewrite, runner: NodeRunner, values: Mapping[str, Array]) -> dict[str, Array]:
    known = {**values, **rewrite.constants}
    found: dict[str, Array] = {}
    for node in rewrite.nodes:
        found.update(runner.run(node, {**known, **found}))
    return found


def _shape(few: Array, many: Array, unit: int) -> Shape:
    grown = [at for at, size in enumerate(few.shape) if many.shape[at] != size]
    return Shape(few.shape, grown[0] if grown else None, unit)


def _follows(few: Array, many: Array, must: bool, apart: bool = False) -> bool:
    """Whether the first images of a batch come out as they do without the others."""
    if few.ndim != many.ndim:
        return False
    grown = [at for at, size in enumerate(few.shape) if many.shape[at] != size]
    if not grown:
        return not must
    (axis, *others) = grown
    rows = few.shape[axis]
    if others or many.shape[axis] != MANY * rows:
        return False
    first = range(0, MANY * rows, MANY) if apart else range(rows)
    return _equal(few, np.take(many, first, axis))


def _equal(a: Array, b: Array) -> bool:
    if a.dtype.kind != "f":
        return a.dtype.kind in "iub" and bool((a == b).mean() > 0.99)
    tolerance = 2e-2 if a.dtype == np.float16 else 1e-3
    size = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    return bool(np.allclose(a, b, rtol=0, atol=tolerance * size + 1e-6, equal_nan=True))
