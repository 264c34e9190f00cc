"""Finding the feature map in a torch.export graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx

from foldcam.export.networks.feature_map import (
    Layer,
    Layout,
    Step,
    UnknownLayerError,
    Value,
    describe,
    read_layouts,
    select,
)
from foldcam.export.networks.graph_search import ancestors, descendants, module_path, module_paths
from foldcam.runtime.system.errors import FoldcamError

# Operators that only rearrange their input's numbers.
_VIEWS = {
    torch.ops.aten.view.default, torch.ops.aten.reshape.default, torch.ops.aten.flatten.using_ints,
    torch.ops.aten.permute.default, torch.ops.aten.transpose.int,
    torch.ops.aten.contiguous.default, torch.ops.aten.clone.default,
    torch.ops.aten.unsqueeze.default, torch.ops.aten.squeeze.dim, torch.ops.aten.dropout.default,
}  # fmt: skip
_TRANSPOSITIONS = {torch.ops.aten.transpose.int, torch.ops.aten.permute.default}
_CONVOLUTIONS = {
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.convolution.default,
}
_POOLINGS = {
    torch.ops.aten.max_pool2d.default, torch.ops.aten.avg_pool2d.default,
    torch.ops.aten.adaptive_avg_pool2d.default, torch.ops.aten.adaptive_max_pool2d.default,
    torch.ops.aten.pixel_unshuffle.default, torch.ops.aten.pixel_shuffle.default,
    torch.ops.aten.upsample_nearest2d.vec, torch.ops.aten.upsample_bilinear2d.vec,
}  # fmt: skip
_LINEAR = _CONVOLUTIONS | {
    torch.ops.aten.linear.default,
    torch.ops.aten.matmul.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
}
_ADDITIONS = {torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor}

Named = TypeVar("Named")


@dataclass(frozen=True)
class Candidate:
    """A node whose output is spatial.

    Attributes:
        layer: its shape, and its name: the module's path if this is the module's
            last spatial output, else the node's own name (as `node:NAME` where a
            module has that path).
    """

    layer: Layer
    node: fx.Node


@dataclass(frozen=True)
class Found:
    """The feature map of a module.

    Attributes:
        pooled: the maps that come from it and are pooled on ways of their own, if several.
        finer: the name of a map in front of it that has more positions, if it has few.
    """

    candidate: Candidate
    pooled: tuple[Layer, ...] = ()
    finer: str | None = None


def candidates(
    graph: fx.Graph, image: fx.Node, embedding: fx.Node, image_size: tuple[int, int]
) -> list[Candidate]:
    """All spatial nodes between image and embedding, in the order of the graph.

    Args:
        graph: the graph of the module.
        image_size: `(height, width)` of the input in pixels.
    """
    layouts = _layouts(graph, image, embedding, image_size)
    last_of_module = {module_path(node): node for node in layouts}
    paths = {path for node in layouts for path in module_paths(node)}
    result = []
    for node, layout in layouts.items():
        path = module_path(node)
        name = node.name
        if path and last_of_module[path] is node:
            name = path
        elif name in paths:
            # An activation module `relu` that is used twice: its first use is not `relu`.
            name = f"node:{name}"
        result.append(Candidate(Layer(name, layout), node))
    return result


def find_feature_map(
    whole: fx.GraphModule, head_end: fx.Node, found: Sequence[Candidate], images: torch.Tensor
) -> Found:
    """The feature map among the candidates, see `export.networks.feature_map.select`.

    Args:
        images: `float32 [N, 3, H, W]` to take it at; noise serves.
    """
    if not found:
        raise FoldcamError(
            "The network has no spatial feature map between its image and its embedding: no "
            "tensor on the way has positions that fit the image, so there is no 'where' to show."
        )
    by_node = {candidate.node: candidate for candidate in found}
    on_the_way = ancestors(head_end)
    gradients = _gradients(whole, head_end, images)
    reached = {
        node
        for node, candidate in by_node.items()
        if node in gradients and is_spread(gradients[node], candidate.layer.layout)
    }
    # A head that detaches or rounds has no gradient to ask; then the shapes alone decide.
    blocked = not reached
    nodes = [
        node
        for node in whole.graph.nodes
        if node in on_the_way and (node in gradients or (blocked and _is_tensor(node)))
    ]
    position = {node: number for number, node in enumerate(nodes)}
    steps = []
    for node in nodes:
        candidate = by_node.get(node)
        layout = None if candidate is None else candidate.layer.layout
        steps.append(
            Step(
                inputs=tuple(position[each] for each in node.all_input_nodes if each in position),
                rank=node.meta["val"].ndim,
                layout=layout,
                spread=layout is not None and (blocked or node in reached),
                linear=_is_linear(node),
                view=node.target in _VIEWS,
            )
        )
    names = [by_node[node].layer.name if node in by_node else node.name for node in nodes]
    selection = select(steps, names)
    return Found(
        by_node[nodes[selection.position]],
        tuple(by_node[nodes[each]].layer for each in selection.pooled),
        None if selection.finer is None else names[selection.finer],
    )


def named_feature_map(
    graph: fx.Graph, found: Sequence[Candidate], layer: str, head_end: fx.Node
) -> Candidate:
    """The candidate that `--layer` names: a node, or a module's last spatial output.

    Args:
        graph: the graph of the module.
        head_end: what the gradient is taken of.
    """
    on_the_way = ancestors(head_end)
    usable = [candidate for candidate in found if candidate.node in on_the_way]
    choices = describe([candidate.layer for candidate in usable])
    chosen = _called(found, layer)
    if chosen is not None and chosen.node in on_the_way:
        return chosen
    if chosen is not None:
        raise FoldcamError(
            f"Layer {layer!r} has no gradient path to the embedding; choose one of: {choices}."
        )
    if any(layer in (*module_paths(node), node.name) for node in graph.nodes):
        raise FoldcamError(
            f"Layer {layer!r} has no spatial output with a gradient path to the embedding; "
            f"choose one of: {choices}."
        )
    raise UnknownLayerError(f"The network has no layer {layer!r}; choose one of: {choices}.")


def _called(found: Sequence[Candidate], layer: str) -> Candidate | None:
    for candidate in reversed(found):
        if layer == candidate.layer.name:
            return candidate
    for candidate in reversed(found):
        if layer == candidate.node.name:
            return candidate
    for candidate in reversed(found):
        if any(path == layer for path in module_paths(candidate.node)):
            return Candidate(Layer(layer, candidate.layer.layout), candidate.node)
    return None


def _layouts(
    graph: fx.Graph, image: fx.Node, embedding: fx.Node, image_size: tuple[int, int]
) -> dict[fx.Node, Layout]:
    """The nodes on the way whose output can be read as a feature map."""
    between = ancestors(embedding) & descendants(image) - {image}
    found = {node: shape for node in graph.nodes if node in between and (shape := _shape(node))}
    shapes = {node: shape for node, (shape, _) in found.items()}
    position = {node: number for number, node in enumerate(shapes)}
    values = [
        Value(
            shape=shape,
            inputs=tuple(position[each] for each in node.all_input_nodes if each in position),
            spatial=node.target in _CONVOLUTIONS | _POOLINGS,
            view=node.target in _VIEWS,
            transposed=node.target in _TRANSPOSITIONS,
            tokens_first=found[node][1],
        )
        for node, shape in shapes.items()
    ]
    layouts = zip(shapes, read_layouts(values, image_size), strict=True)
    return {node: layout for node, layout in layouts if layout is not None}


def _shape(node: fx.Node) -> tuple[tuple[int, ...], bool] | None:
    """Shape without the batch, and whether the batch comes second, of a float tensor."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim < 3:
        return None
    open_sizes = [axis for axis, size in enumerate(value.shape) if not isinstance(size, int)]
    if open_sizes not in ([0], [1]) or (open_sizes == [1] and value.ndim != 3):
        return None
    (axis,) = open_sizes
    batch = value.shape[axis]
    assert isinstance(batch, torch.SymInt)
    if not batch.node.expr.is_symbol:
        return None
    return tuple(int(size) for size in value.shape if isinstance(size, int)), axis == 1


def _is_tensor(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _is_linear(node: fx.Node) -> bool:
    """Whether a node is a convolution or matrix product, or the bias added to one."""
    if node.target in _ADDITIONS:
        sources = [each for each in node.all_input_nodes if each.op != "get_attr"]
        return len(sources) == 1 and sources[0].target in _LINEAR
    return node.target in _LINEAR


def is_spread(gradient: torch.Tensor, layout: Layout) -> bool:
    """Whether a layer's gradient is not zero at more than one position."""
    size = gradient.abs()
    if layout.tokens_first:
        size = size.transpose(0, 1)
    if layout.kind == "nchw":
        positions = size.amax(1).flatten(1)
    elif layout.kind == "nhwc":
        positions = size.amax(3).flatten(1)
    else:
        positions = size.amax(2)[:, layout.skipped :]
    return bool((positions > 0).any(0).sum() > 1)


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every tensor that a gradient may reach."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[fx.Node, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.requires_grad:
            self.values[n] = value
        return value


def _gradients(
    whole: fx.GraphModule, head_end: fx.Node, images: torch.Tensor
) -> dict[fx.Node, torch.Tensor]:
    """The gradient of a random sum over the head's end with respect to each node."""
    recorder = _Recorder(whole)
    with torch.enable_grad():
        recorder.run(images.requires_grad_(True))
    end = recorder.values.get(head_end)
    return {} if end is None else random_gradients(end, recorder.values)


def random_gradients(
    end: torch.Tensor, values: Mapping[Named, torch.Tensor]
) -> dict[Named, torch.Tensor]:
    """The gradient of a random sum over `end` with respect to each value that it reaches."""
    generator = torch.Generator().manual_seed(0)
    found = torch.autograd.grad(
        end,
        list(values.values()),
        grad_outputs=torch.randn(end.shape, generator=generator),
        allow_unused=True,
    )
    return {name: each for name, each in zip(values, found, strict=True) if each is not None}
