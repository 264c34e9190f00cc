"""Finding the feature map and the head's end in an ONNX graph, by one pass over it in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from onnx import numpy_helper

from foldcam.export.networks.cut import CutPoints
from foldcam.export.networks.feature_map import (
    Grid,
    Layer,
    Layout,
    Step,
    UnknownLayerError,
    Value,
    describe,
    read_layouts,
    select,
)
from foldcam.export.networks.feature_map_search import is_spread, random_gradients
from foldcam.export.networks.graph_search import judge_normalization
from foldcam.export.networks.onnx_networks.prepare import Prepared, noise
from foldcam.export.networks.onnx_networks.rewrite import Shape
from foldcam.export.networks.onnx_torch.arrangement import to_torch
from foldcam.export.networks.onnx_torch.call import UnsupportedError
from foldcam.export.networks.onnx_torch.interpreter import Interpreter
from foldcam.export.onnx_graphs.normalization import ends_in_layer_norm, find_normalization
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.export.onnx_graphs.values import Flow, place_of
from foldcam.runtime.contract.schema import IMAGE
from foldcam.runtime.system.errors import FoldcamError

# Operators that only rearrange their input's numbers.
_VIEWS = {"Reshape", "Flatten", "Transpose", "Identity", "Unsqueeze", "Squeeze", "Dropout", "Cast"}
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_POOLINGS = {"MaxPool", "AveragePool", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth"}
_LINEAR = _CONVOLUTIONS | {"MatMul", "Gemm"}


@dataclass(frozen=True, kw_only=True)
class OnnxCutPoints(CutPoints):
    """Where an ONNX graph is cut: its feature map, which is a value's name, and its head's end.

    Attributes:
        layout: how the feature map is read.
        head_end: the name of `z`: the input of the final normalisation, or the
            embedding where there is none or it was not found.
        obstacle: why the head cannot be differentiated, None where it can.
    """

    layout: Layout
    head_end: str
    obstacle: str | None


def find_cut_points(
    prepared: Prepared, image_size: tuple[int, int], layer: str | None, exact: bool
) -> OnnxCutPoints:
    """Find the feature map and the end of the head.

    Args:
        layer: name of the feature map's value or of the node that makes it, or None to find it.
    """
    flow = Flow(prepared.model.graph)
    candidates = spatial_values(flow, prepared, image_size)
    if not candidates:
        raise FoldcamError(
            "The network has no spatial feature map between its image and its embedding: no "
            "tensor on the way has positions that fit the image, so there is no 'where' to show."
        )
    head_end, normalized, before = find_head_end(prepared, image_size)
    trace = Trace(prepared.model, flow, head_end, image_size)
    finer = None
    if layer is None:
        chosen, pooled, finer = _find_feature_map(
            flow, trace, candidates, head_end, prepared.shapes, exact
        )
    else:
        pooled = ()
        chosen = _named(flow, candidates, layer, head_end)
    inside = _between(chosen.name, flow, trace, head_end)
    obstacle = inside[0].sentence if inside else None
    if exact and obstacle is not None:
        behind = [
            each
            for each in candidates
            if each.name in trace.gradients
            and is_spread(trace.gradients[each.name], each.layout)
            and not _between(each.name, flow, trace, head_end)
        ]
        raise FoldcamError(_offer(obstacle, behind))
    return OnnxCutPoints(
        image_size=image_size,
        candidates=candidates,
        layer=chosen.name,
        feature_map_shape=chosen.shape,
        embedding_size=prepared.embedding_size,
        normalized=normalized,
        head_before_normalization=before,
        pooled=pooled,
        finer=finer,
        layout=chosen.layout,
        head_end=head_end,
        obstacle=obstacle,
    )


def _between(name: str, flow: Flow, trace: Trace, head_end: str) -> list[Obstacle]:
    """Where the gradient ends between a layer and the head's end."""
    path = flow.after(name) & flow.needed_for([head_end], [name])
    return [each for each in trace.obstacles if each.number in path]


def _offer(obstacle: str, behind: Sequence[Layer] = ()) -> str:
    """What helps: a linear map, or a layer behind the obstacle where there is one."""
    other = f"; or --layer, one of those behind it: {describe(behind, 4)}" if behind else ""
    return (
        f"The head cannot be differentiated: {obstacle}; --head fitted takes a linear map fitted "
        f"to the training images in its place{other}."
    )


def spatial_values(flow: Flow, prepared: Prepared, image_size: Grid) -> list[Layer]:
    """The values between image and embedding that can be read as a feature map."""
    found: dict[str, tuple[tuple[int, ...], bool]] = {}
    makers: dict[str, int] = {}
    for number in sorted(flow.needed_for([prepared.embedding])):
        for name in map(str, flow.nodes[number].output):
            read = _per_image(prepared.shapes, name)
            if read is not None and flow.holds_image(name):
                found[name], makers[name] = read, number
    position = {name: number for number, name in enumerate(found)}
    values = []
    for name, (shape, tokens_first) in found.items():
        node = flow.nodes[makers[name]]
        sources = flow.inputs[makers[name]]
        values.append(
            Value(
                shape=shape,
                inputs=tuple(position[each] for each in sources if each in position),
                spatial=node.op_type in _CONVOLUTIONS | _POOLINGS,
                view=node.op_type in _VIEWS,
                transposed=node.op_type == "Transpose",
                tokens_first=tokens_first,
            )
        )
    layouts = zip(found, read_layouts(values, image_size), strict=True)
    return [Layer(name, layout) for name, layout in layouts if layout is not None]


def _per_image(shapes: Mapping[str, Shape], name: str) -> tuple[tuple[int, ...], bool] | None:
    """A value's shape without the batch, and whether the batch comes second."""
    shape = shapes.get(name)
    if shape is None:
        return None
    if shape.per_image is not None:
        return (shape.per_image, False) if len(shape.per_image) >= 2 else None
    second = len(shape.sizes) == 3 and shape.axis == 1 and shape.sizes[1] == shape.unit
    return ((shape.sizes[0], shape.sizes[2]), True) if second else None


def find_head_end(prepared: Prepared, image_size: Grid) -> tuple[str, bool, bool]:
    """The head's end, whether the network normalises, and whether the end lies before it."""
    source = find_normalization(prepared.model.graph, prepared.embedding)
    names = [prepared.embedding, source or prepared.embedding]
    arrays = GraphSession(prepared.model, names).run(noise(image_size, 3))
    output, before = (to_torch(array).float().flatten(1) for array in arrays)
    unit, confirmed = judge_normalization(output, before if source else None)
    if confirmed and source is not None:
        return source, True, True
    if ends_in_layer_norm(prepared.model.graph, prepared.embedding):
        # All its rows have one norm, yet it belongs to the head: see
        # `torch_cut.hold_scales`.
        return prepared.embedding, False, True
    return prepared.embedding, unit, not unit


def _named(flow: Flow, candidates: list[Layer], layer: str, head_end: str) -> Layer:
    nodes = {str(node.name): node for node in flow.nodes if node.name}
    names = [layer, *(nodes[layer].output if layer in nodes else [])]
    usable = [
        each
        for each in candidates
        if flow.after(each.name) & flow.needed_for([head_end], [each.name])
    ]
    choices = describe(usable)
    for candidate in reversed(candidates):
        if candidate.name in names and candidate in usable:
            return candidate
        if candidate.name in names:
            raise FoldcamError(
                f"Layer {candidate.name!r} has no gradient path to the embedding; choose one of: "
                f"{choices}."
            )
    if layer in nodes or layer in flow.producer:
        raise FoldcamError(
            f"Layer {layer!r} has no spatial output with a gradient path to the embedding; "
            f"choose one of: {choices}."
        )
    raise UnknownLayerError(f"The network has no layer {layer!r}; choose one of: {choices}.")


def _find_feature_map(
    flow: Flow,
    trace: Trace,
    candidates: list[Layer],
    head_end: str,
    shapes: Mapping[str, Shape],
    exact: bool,
) -> tuple[Layer, tuple[Layer, ...], str | None]:
    """The feature map, the maps behind it if several, and a finer one if it has few positions.

    See `export.networks.feature_map.select`.
    """
    layouts = {candidate.name: candidate.layout for candidate in candidates}
    reached = {
        name
        for name, layout in layouts.items()
        if name in trace.gradients and is_spread(trace.gradients[name], layout)
    }
    if not reached and trace.obstacles and exact:
        raise FoldcamError(_offer(trace.obstacles[-1].sentence))
    # A head that rounds has no gradient to ask; then the shapes alone decide.
    blocked = not reached
    names: list[str] = [IMAGE]
    for number in sorted(flow.needed_for([head_end])):
        names += [str(name) for name in flow.nodes[number].output if name]
    names = [
        name
        for name in names
        if name in trace.gradients or (blocked and name in shapes and flow.holds_image(name))
    ]
    position = {name: number for number, name in enumerate(names)}
    steps = []
    for name in names:
        maker = flow.producer.get(name)
        node = None if maker is None else flow.nodes[maker]
        sources = [] if maker is None else flow.inputs[maker]
        steps.append(
            Step(
                inputs=tuple(position[each] for each in sources if each in position),
                rank=_rank(shapes[name]),
                layout=layouts.get(name),
                spread=name in layouts and (blocked or name in reached),
                linear=node is not None and _is_linear(node, flow),
                view=node is not None and node.op_type in _VIEWS,
            )
        )
    selection = select(steps, names)
    by_name = {candidate.name: candidate for candidate in candidates}
    pooled = tuple(by_name[names[each]] for each in selection.pooled)
    finer = None if selection.finer is None else names[selection.finer]
    return by_name[names[selection.position]], pooled, finer


def _rank(shape: Shape) -> int:
    """Dimensions, without those that pooling left with one position."""
    return sum(size > 1 or axis == shape.axis for axis, size in enumerate(shape.sizes))


def _is_linear(node: onnx.NodeProto, flow: Flow) -> bool:
    """Whether a node is a convolution or matrix product, or the bias added to one."""
    if node.op_type == "Add":
        sources = [str(name) for name in node.input if name not in flow.fixed]
        number = flow.producer.get(sources[0]) if len(sources) == 1 else None
        return number is not None and flow.nodes[number].op_type in _LINEAR
    return node.op_type in _LINEAR


# The operator was computed in float16, or summed in another order.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Obstacle:
    """A node through which no gradient passes.

    Attributes:
        number: the number of the node in the graph.
        sentence: which operator and node it is, and why.
    """

    number: int
    sentence: str


class Trace:
    """One pass over the graph in torch, with the gradient of the head's end at every value.

    A node without a torch function, or whose function gives other numbers than ONNX
    Runtime, is computed by the latter, and the gradient ends there.

    Attributes:
        gradients: `[N, ...]` by name, of those values that a gradient reaches.
        obstacles: where it ends, in the order of the graph.
    """

    def __init__(self, model: onnx.ModelProto, flow: Flow, head_end: str, image_size: Grid) -> None:
        self.obstacles: list[Obstacle] = []
        self._interpreter = Interpreter(model)
        values = {
            str(tensor.name): _constant(numpy_helper.to_array(tensor))
            for tensor in model.graph.initializer
        }
        values[IMAGE] = torch.from_numpy(noise(image_size, 2)).requires_grad_(True)
        with torch.enable_grad():
            for number in sorted(flow.needed_for([head_end])):
                self._step(number, flow, values)
        end = values[head_end]
        reached = {name: value for name, value in values.items() if value.requires_grad}
        self.gradients = random_gradients(end, reached) if end.requires_grad else {}

    def _step(self, number: int, flow: Flow, values: dict[str, torch.Tensor]) -> None:
        node = flow.nodes[number]
        if all(values[name].dtype.is_floating_point is False for name in flow.inputs[number]):
            values.update(self._interpreter.in_runtime(node, values))
            return
        exact = self._interpreter.in_runtime(node, values)
        try:
            found = self._interpreter.apply(node, values)
            if not all(_same(found[name], value) for name, value in exact.items()):
                raise UnsupportedError("its torch function gives other numbers than ONNX Runtime")
        except UnsupportedError as error:
            found = exact
            if any(values[name].requires_grad for name in flow.inputs[number]):
                floats = [v for v in exact.values() if v.is_floating_point()]
                for value in floats:
                    value.requires_grad_(True)
                if floats:
                    sentence = f"{node.op_type} (node {place_of(node)}), {error}"
                    self.obstacles.append(Obstacle(number, sentence))
        values.update(found)


def _constant(array: object) -> torch.Tensor:
    try:
        return to_torch(array)  # type: ignore[arg-type]
    except UnsupportedError as error:
        raise FoldcamError(
            f"The network has a constant that torch cannot hold: {error}."
        ) from error


def _same(found: torch.Tensor, exact: torch.Tensor) -> bool:
    if found.shape != exact.shape or found.dtype != exact.dtype:
        return False
    if not exact.is_floating_point():
        return bool((found == exact).all())
    size = float(exact[exact.isfinite()].abs().max()) if exact.isfinite().any() else 0.0
    return torch.allclose(
        found.detach(), exact, rtol=0, atol=_TOLERANCE * size + 1e-6, equal_nan=True
    )
