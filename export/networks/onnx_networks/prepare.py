"""From an ONNX file to a graph that foldcam can cut: one image in, one embedding out, any batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.networks.feature_map import read_layout
from foldcam.export.networks.onnx_networks.batch import MANY, open_batch
from foldcam.export.networks.onnx_networks.input import OutputChoiceError, image_input, take_image
from foldcam.export.networks.onnx_networks.rewrite import Shape
from foldcam.export.onnx_graphs.embedding_model import BATCH, OLDEST_OPSET, opset_of
from foldcam.export.onnx_graphs.file import OnnxFile
from foldcam.export.onnx_graphs.opset import in_opset
from foldcam.export.onnx_graphs.rewrites import fold_constants
from foldcam.export.onnx_graphs.sequences import replace_sequences
from foldcam.export.onnx_graphs.session import Array, GraphSession, constant_of
from foldcam.export.onnx_graphs.values import PREPARED, RANDOM, Flow, graphs, place_of, prune
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True)
class Prepared:
    """A graph `image float32 [batch, 3, H, W]` -> the embedding, in opset 17 or later.

    Attributes:
        model: the file's own graph, pruned to what the embedding needs.
        embedding: the name of its one output.
        embedding_size: `D`.
        shapes: the shapes of every value that depends on the image.
        notes: what was changed in the graph, one sentence each.
    """

    model: onnx.ModelProto
    embedding: str
    embedding_size: int
    shapes: dict[str, Shape]
    notes: tuple[str, ...]


def prepare(file: OnnxFile, image_size: tuple[int, int]) -> Prepared:
    """Bring a file's graph to the form that can be cut and folded.

    Args:
        file: the network; not changed.
        image_size: `(height, width)` of the input in pixels.
    """
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    # Since version 4 weights need not be listed as inputs, which they no longer are; 8 is that
    # of opset 17.
    model.ir_version = max(model.ir_version, 8)
    # What exporters noted about shapes is for the batch and the size of their example.
    del model.graph.value_info[:]
    name_nodes_apart(model.graph)
    given = image_input(model.graph)
    unit = given.batch or 1
    take_image(model, given, image_size)
    _fix_batch(model, unit)
    images = noise(image_size, MANY * unit)
    settle_branches(model, images[:unit])
    name_nodes_apart(model.graph)
    embedding, size = _choose_output(model, images[:unit])
    prune(model.graph)
    refuse_random(model.graph)
    replace_sequences(model)
    notes = []
    if opset_of(model) < OLDEST_OPSET:
        notes.append(f"The file is in ONNX opset {opset_of(model)}: converted to {OLDEST_OPSET}.")
        model = in_opset(model, OLDEST_OPSET, images[:unit])
    single = GraphSession(model, [embedding])
    expected = [single.run(images[at * unit : (at + 1) * unit])[0] for at in range(MANY)]
    before = model.SerializeToString(deterministic=True)
    shapes = open_batch(model, images, unit, is_open=given.batch is None)
    if model.SerializeToString(deterministic=True) != before:
        notes.append(
            f"Constants of the file hold a batch of {unit}, though it leaves its batch open: they "
            "were made dynamic."
            if given.batch is None
            else f"The file was made for a batch of {unit}: its batch was made dynamic."
        )
    _fix_batch(model, BATCH)
    # The search for the normalisation reads a temperature off, and TensorRT lacks operators
    # that some networks need for their constants.
    fold_constants(model)
    _check_batch(model, embedding, images, expected)
    return Prepared(model, embedding, size, shapes, tuple(notes))


def noise(image_size: tuple[int, int], count: int) -> Array:
    """Seeded noise, `float32 [count, 3, H, W]`."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 3, *image_size)).astype(np.float32)


def _fix_batch(model: onnx.ModelProto, batch: int | str) -> None:
    """Write the batch into the input's shape, and none into the outputs'."""
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.Clear()
    if isinstance(batch, int):
        dim.dim_value = batch
    else:
        dim.dim_param = batch
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _choose_output(model: onnx.ModelProto, images: Array) -> tuple[str, int]:
    """Make the embedding the graph's one output; returns its name and `D`."""
    names = [str(value.name) for value in model.graph.output]
    found = dict(zip(names, GraphSession(model, names).run(images), strict=True))
    # Sequences and maps come as lists.
    arrays = {name: each for name, each in found.items() if isinstance(each, np.ndarray)}
    fitting = {name: array for name, array in arrays.items() if _is_embedding(array, len(images))}
    if not fitting:
        shown = ", ".join(
            f"{name!r} [{_text(arrays[name].shape) if name in arrays else 'a sequence'}]"
            for name in names
        )
        raise OutputChoiceError(
            f"The network's output{'s are' if len(names) > 1 else ' is'} {shown}, and an embedding "
            "has the shape [N, D] in float32 or float16",
            _class_tokens(arrays, images) or _inner_embeddings(model, images),
        )
    if len(fitting) > 1:
        raise OutputChoiceError(
            "The network has several outputs that could be the embedding",
            {name: _text(array.shape) for name, array in fitting.items()},
        )
    ((name, array),) = fitting.items()
    del model.graph.output[:]
    kind = TensorProto.FLOAT16 if array.dtype == np.float16 else TensorProto.FLOAT
    model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return name, array.size // len(images)


def _inner_embeddings(model: onnx.ModelProto, images: Array) -> dict[str, str]:
    """Values inside the graph that could be the embedding, the last first, and their shapes."""
    names = [str(name) for node in model.graph.node for name in node.output if name]
    try:
        found = dict(zip(names, GraphSession(model, names).run(images), strict=True))
    except FoldcamError:
        # A value that only exists inside of what ONNX Runtime puts together.
        return {}
    arrays = {name: each for name, each in found.items() if isinstance(each, np.ndarray)}
    tokens = [name for name, each in arrays.items() if _has_class_token(each, images)]
    # One number for each token, such as a LayerNorm's deviations, is no embedding.
    per_token = {(*arrays[name].shape[:2], 1) for name in tokens}
    fitting = {
        name: _text(array.shape)
        for name, array in reversed(arrays.items())
        if _is_embedding(array, len(images)) and array.shape not in per_token
    }
    return {**_class_tokens({name: arrays[name] for name in tokens[-1:]}, images), **fitting}


def _class_tokens(arrays: Mapping[str, Array], images: Array) -> dict[str, str]:
    """The first token of each value that is tokens, as --output takes it, and its shape."""
    return {
        f"{name}[0]": f"{len(array)} x {array.shape[2]}"
        for name, array in arrays.items()
        if _has_class_token(array, images)
    }


def _has_class_token(array: Array, images: Array) -> bool:
    """Whether it is a transformer's tokens `[N, T, D]`, with others before the patches'."""
    if array.ndim != 3 or array.dtype not in (np.float32, np.float16) or len(array) != len(images):
        return False
    height, width = images.shape[2:]
    layout = read_layout(array.shape[1:], (height, width))
    return layout is not None and layout.kind == "tokens" and layout.skipped > 0


def _is_embedding(array: Array, count: int) -> bool:
    """Whether it is one row of numbers per image, whatever dimensions of 1 are around it."""
    if array.dtype not in (np.float32, np.float16) or array.size <= count:
        return False
    sizes = list(array.shape)
    squeezed = count == 1 and len(sizes) == 1
    leading = len(sizes) > 1 and sizes[0] == count
    return squeezed or (leading and max(sizes[1:]) == array.size // count)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_batch(
    model: onnx.ModelProto, embedding: str, images: Array, expected: list[Array]
) -> None:
    """Compare a batch with its images alone, through the whole graph."""
    rows = len(images)
    (found,) = GraphSession(model, [embedding]).run(images)
    wanted = np.concatenate([each.reshape(rows // MANY, -1) for each in expected])
    size = max(float(np.abs(wanted).max()), 1e-12)
    tolerance = 2e-2 if wanted.dtype == np.float16 else 1e-3
    if found.size != wanted.size or not np.isfinite(wanted).all():
        worst = np.inf
    else:
        worst = float(np.abs(found.reshape(rows, -1) - wanted).max()) / size
    if not worst <= tolerance:
        raise FoldcamError(
            f"The network gives other embeddings in a batch of {rows} than image by image, and no "
            "single node explains it: export it again, after eval() and with a dynamic first "
            "dimension."
            if np.isfinite(worst)
            else "The network's embedding of a noise image is not finite."
        )


def refuse_random(graph: onnx.GraphProto) -> None:
    """Refuse noise, and dropout in training mode."""
    for inner in graphs(graph):
        for node in inner.node:
            if node.op_type in RANDOM:
                raise FoldcamError(
                    f"{node.op_type} (node {place_of(node)}) draws random numbers, so that one "
                    "image has another embedding each time: export the network after eval(), "
                    "without its noise."
                )
            if node.op_type == "Dropout" and _trains(graph, inner, node):
                raise FoldcamError(
                    f"Dropout (node {place_of(node)}) is in training mode and drops other numbers "
                    "each time: export the network after eval()."
                )


def _trains(graph: onnx.GraphProto, inner: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether a Dropout is in training mode, by its third input."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    mode, ratio = (_constant(str(name), inner, graph) for name in (node.input[2], node.input[1]))
    return mode is not None and bool(mode.any()) and (ratio is None or bool(ratio.any()))


def _constant(name: str, *places: onnx.GraphProto) -> Array | None:
    """A constant of a graph or of the one around it, handed on by Identity as some tools do."""
    for graph in places:
        for tensor in graph.initializer:
            if tensor.name == name:
                return numpy_helper.to_array(tensor)
        for node in graph.node:
            if name in node.output and node.op_type == "Constant":
                return constant_of(node)
            if name in node.output and node.op_type == "Identity":
                return _constant(str(node.input[0]), *places)
    return None


def settle_branches(model: onnx.ModelProto, images: Array) -> None:
    """Replace each If whose condition asks for sizes or constants alone.

    Exporters write one where they do not know how large a dimension is, as for `squeeze`.
    """
    settled = 0
    while (position := _first_settled(model.graph)) is not None:
        node = model.graph.node[position]
        taken = bool(np.all(_value(model, str(node.input[0]), images)))
        nodes, weights = _inlined(node, taken, f"{PREPARED}branch.{settled}.")
        after = list(model.graph.node)[position + 1 :]
        del model.graph.node[position:]
        model.graph.node.extend([*nodes, *after])
        model.graph.initializer.extend(weights)
        settled += 1


def name_nodes_apart(graph: onnx.GraphProto) -> None:
    """Take the name from every node that has another's, which ONNX Runtime refuses."""
    known: set[str] = set()
    for inner in graphs(graph):
        for node in inner.node:
            if node.name in known:
                node.name = ""
            known.add(node.name)


def _first_settled(graph: onnx.GraphProto) -> int | None:
    if not any(node.op_type == "If" for node in graph.node):
        return None
    flow = Flow(graph)
    return next(
        (
            position
            for position, node in enumerate(flow.nodes)
            if node.op_type == "If" and not flow.holds_image(str(node.input[0]))
        ),
        None,
    )


def _value(model: onnx.ModelProto, name: str, images: Array) -> Array:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    (value,) = GraphSession(model, [name]).run(images)
    return value


def _inlined(
    node: onnx.NodeProto, taken: bool, prefix: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and weights of the branch, its own values renamed, its outputs called as the If's."""
    wanted = "then_branch" if taken else "else_branch"
    branch = onnx.GraphProto()
    branch.CopyFrom(next(each.g for each in node.attribute if each.name == wanted))
    own = {str(name) for inner in branch.node for name in inner.output if name}
    own |= {str(tensor.name) for tensor in branch.initializer}
    names = {name: prefix + name for name in own}
    for tensor in branch.initializer:
        tensor.name = names[tensor.name]
    for graph in graphs(branch):
        for inner in graph.node:
            for values in (inner.input, inner.output):
                for position, name in enumerate(values):
                    values[position] = names.get(name, name)
    # A branch may hand on a value of the outer graph, or one value twice.
    ends = [
        helper.make_node("Identity", [names.get(value.name, value.name)], [output], prefix + output)
        for value, output in zip(branch.output, node.output, strict=True)
        if output
    ]
    return [*branch.node, *ends], list(branch.initializer)
