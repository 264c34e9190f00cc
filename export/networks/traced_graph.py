"""What a torch module is made of: its flat graph, feature map, normalisation, and cuts.

`torch.export` turns the module into one flat graph of ATen operators. Whatever runs
only part of it (the trunk, the head, the trained rest) is a cut of that graph.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from foldcam.export.networks import graph_search
from foldcam.export.networks.feature_map import Layer, Layout
from foldcam.export.networks.feature_map_search import (
    Candidate,
    candidates,
    find_feature_map,
    named_feature_map,
)
from foldcam.export.networks.graph_search import judge_normalization
from foldcam.export.networks.inference_module import check_answers, inference_module, tidy_graph
from foldcam.export.networks.outputs import embedding_only
from foldcam.runtime.system.errors import FoldcamError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TracedGraph:
    """A module's graph, with its feature map and the end of its head.

    Attributes:
        whole: the graph, image -> embedding, sharing the module's parameters. All that
            comes after the feature map depends on it through the node `feature_map`.
        program: the network's own graph, image -> (feature map, embedding).
        image: its placeholder, `[N, 3, H, W]`.
        candidates: every node that could be the feature map, in order.
        pooled: maps behind it that are pooled on ways of their own, if several.
        finer: the name of a map in front of it that has more positions, if it has few.
        feature_map: the node of its output as `[N, K, h, w]`.
        head_end: the node of `z`: the input of the final normalisation, or the
            embedding where there is none or it was not found.
        embedding: the node of the network's own output, `[N, D]`.
        normalized: whether the network ends in an L2 normalisation.
        head_before_normalization: whether `head_end` is that normalisation's input.
            False only where the output is normalised but the place was not found.
    """

    whole: fx.GraphModule
    program: fx.GraphModule
    image: fx.Node
    candidates: list[Candidate]
    layer: Layer
    pooled: tuple[Layer, ...]
    finer: str | None
    feature_map: fx.Node
    head_end: fx.Node
    embedding: fx.Node
    normalized: bool
    head_before_normalization: bool


def trace_module(
    module: nn.Module,
    image_size: tuple[int, int],
    layer: str | None = None,
    output: str | None = None,
) -> TracedGraph:
    """Export a module to a graph and find its feature map and the end of its head.

    The module is left in eval mode, in float32, on the CPU, with frozen parameters.

    Args:
        module: image `float32 [N, 3, H, W]` -> embedding `[N, D]`.
        image_size: `(height, width)` of the input in pixels.
        layer: name of the feature map, or None to find it.
        output: which of the module's outputs is the embedding, see `embedding_only`.
    """
    whole = _exported(module, image_size, output)
    image, embedding = _ends(whole)
    check_answers(subgraph(whole, [image], [embedding]), example_images(image_size, 2))
    found = candidates(whole.graph, image, embedding, image_size)
    head_end, normalized, before = _find_head_end(whole, image_size, embedding)
    if layer is None:
        answer = find_feature_map(whole, head_end, found, example_images(image_size, 2))
        chosen, pooled, finer = answer.candidate, answer.pooled, answer.finer
    else:
        pooled, finer = (), None
        chosen = named_feature_map(whole.graph, found, layer, head_end)
    layout = chosen.layer.layout
    feature_map = add_map(whole, chosen.node, layout)
    program = subgraph(whole, [image], [feature_map, embedding])
    lead_through_map(whole, chosen.node, feature_map, layout)
    return TracedGraph(
        whole=whole,
        program=program,
        image=image,
        candidates=found,
        layer=chosen.layer,
        pooled=pooled,
        finer=finer,
        feature_map=feature_map,
        head_end=head_end,
        embedding=embedding,
        normalized=normalized,
        head_before_normalization=before,
    )


def context_of(whole: fx.GraphModule, start: fx.Node, ends: Sequence[fx.Node]) -> list[fx.Node]:
    """What else, besides `start`, must be known to compute `ends` from it.

    Values that do not depend on `start`: skip connections around it, sizes. The
    number of images, and what follows from it alone, is not among them, see `subgraph`;
    neither is what follows from parameters alone, such as `1 / p` of a generalised mean.
    """
    after = graph_search.descendants(start) - {start}
    needed = set().union(*(graph_search.ancestors(end) for end in ends))
    context: list[fx.Node] = []
    for node in whole.graph.nodes:
        if node in after and node in needed:
            for source in node.all_input_nodes:
                known = source is start or source in after or source in context
                if not known and not (
                    _follows_from_batch(source) or _follows_from_parameters(source)
                ):
                    context.append(source)
    return context


def subgraph(
    whole: fx.GraphModule, inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> fx.GraphModule:
    """The part of a graph that computes `outputs` from `inputs`, as a module.

    It shares the whole's parameters. Where it asks for the number of images, it
    takes that of its first input, so that it can be called with any batch.

    Args:
        inputs: nodes whose values are given; the first has one row per image.
        outputs: nodes whose values are returned, as a tuple.
    """
    needed: set[fx.Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            if node not in inputs and not _is_batch_size(node):
                waiting.extend(node.all_input_nodes)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    first = copies[inputs[0]]
    for node in whole.graph.nodes:
        if node not in needed or node in copies:
            continue
        if _is_batch_size(node):
            copies[node] = graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
            copies[node].meta = dict(node.meta)
        else:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output(tuple(copies[node] for node in outputs))
    module = fx.GraphModule(whole, graph)
    module.graph.lint()
    return module


def moved(module: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """A copy of a graph on another device; constants that its nodes make are made there.

    Args:
        module: on the processor; not changed.
        device: where the copy is.
    """
    copy = deepcopy(module).to(device)
    for node in copy.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
    copy.recompile()
    return copy


def example_images(image_size: tuple[int, int], count: int) -> torch.Tensor:
    """Seeded noise, `float32 [count, 3, H, W]`."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, *image_size, generator=generator)


def _follows_from_batch(node: fx.Node) -> bool:
    """Whether it is the number of images, or a product of it, as torch's own attention has it."""
    if node.op != "call_function" or isinstance(node.meta.get("val"), torch.Tensor):
        return False
    sources = node.all_input_nodes
    return _is_batch_size(node) or (bool(sources) and all(map(_follows_from_batch, sources)))


def _follows_from_parameters(node: fx.Node) -> bool:
    """Whether it is a parameter or buffer, or computed from them alone."""
    begins = [each for each in graph_search.ancestors(node) if not each.all_input_nodes]
    return all(each.op == "get_attr" for each in begins)


def _is_batch_size(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is not torch.ops.aten.sym_size.int:
        return False
    source, dimension = node.args
    on_image = isinstance(source, fx.Node) and source.op == "placeholder"
    return on_image and isinstance(dimension, int) and dimension == 0


def _find_head_end(
    whole: fx.GraphModule, image_size: tuple[int, int], embedding: fx.Node
) -> tuple[fx.Node, bool, bool]:
    """The head's end, whether the network normalises, and whether the end lies before it."""
    source = graph_search.find_normalization(embedding)
    probe = _probe(whole, image_size, [embedding, source or embedding])
    output, before = (value.flatten(1) for value in probe)
    unit, confirmed = judge_normalization(output, before if source is not None else None)
    if confirmed and source is not None:
        return source, unit, True
    if graph_search.ends_in_layer_norm(embedding):
        # All its rows have one norm, yet it belongs to the head: see
        # `torch_cut.hold_scales`.
        return embedding, False, True
    if graph_search.ends_in_softmax(embedding):
        # Of one length by chance: no lengths are taken away there.
        return embedding, False, True
    if unit:
        _log.warning(
            "The embedding is normalised, but the place where it happens was not found: "
            "directions are pulled through the normalisation, which weakens the heatmaps."
        )
    return embedding, unit, not unit


def _exported(module: nn.Module, image_size: tuple[int, int], output: str | None) -> fx.GraphModule:
    module = inference_module(module)
    example = example_images(image_size, 2)
    module = embedding_only(module, example, output)
    try:
        # A part of the network under no_grad would be traced as a module of its own.
        with torch.no_grad():
            program = torch.export.export(
                module, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},)
            )
        if any(_writes_in_place(node) for node in program.graph.nodes):
            # Cut in two, a graph that writes into its own tensors would lose or repeat a write.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = program.run_decompositions({})
    except FoldcamError:
        raise
    except Exception as error:
        # torch.export raises many unrelated types; its first line is the reason.
        raise FoldcamError(
            f"torch.export cannot trace the network: {_first_line(error)}. Shapes and control "
            "flow must not depend on the image's values."
        ) from error
    _check_flat(program)
    whole = program_module(program)
    tidy_graph(whole)
    return whole


def _check_flat(program: torch.export.ExportedProgram) -> None:
    for node in program.graph.nodes:
        if node.target is torch.ops.higher_order.wrap_with_autocast:
            raise FoldcamError(
                "The network runs a part of itself under torch.autocast, whose precision ONNX "
                "cannot repeat: take it out of forward (--precision fp16 makes halves of a "
                "folded model)."
            )


def _writes_in_place(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def program_module(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a module without guards, so that it can be cut."""
    try:
        whole = program.module(check_guards=False)
    except RuntimeError as error:
        raise FoldcamError(f"torch cannot flatten the network: {_first_line(error)}.") from error
    assert isinstance(whole, fx.GraphModule)
    image = next(node for node in whole.graph.nodes if node.op == "placeholder")
    batch = image.meta["val"].shape[0]
    if _is_fixed(batch):
        raise FoldcamError(
            f"The network only takes batches of {batch}: its batch size is fixed in its code or "
            "in its export; make the first dimension dynamic."
        )
    return whole


def _is_fixed(size: int | torch.SymInt) -> bool:
    # A symbolic size can turn out to be one number once the whole graph is known.
    return isinstance(size, int) or bool(size.node.expr.is_number)


def _ends(whole: fx.GraphModule) -> tuple[fx.Node, fx.Node]:
    """The image's placeholder and the embedding's node."""
    images = [node for node in whole.graph.nodes if node.op == "placeholder"]
    if len(images) != 1:
        raise FoldcamError(f"The network takes {len(images)} inputs where one image is needed.")
    (output,) = (node for node in whole.graph.nodes if node.op == "output")
    (embedding,) = output.all_input_nodes
    if _is_fixed(embedding.meta["val"].shape[0]):
        raise FoldcamError(
            f"The network returns {embedding.meta['val'].shape[0]} rows whatever the batch: it "
            "must return one embedding per image."
        )
    return images[0], embedding


@torch.no_grad()
def _probe(
    whole: fx.GraphModule, image_size: tuple[int, int], nodes: list[fx.Node]
) -> list[torch.Tensor]:
    (image,) = (node for node in whole.graph.nodes if node.op == "placeholder")
    values = subgraph(whole, [image], nodes)(example_images(image_size, 3))
    return [value.float() for value in values]


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


_aten = torch.ops.aten
_TO_THE_END = 2**63 - 1


def add_map(whole: fx.GraphModule, node: fx.Node, layout: Layout) -> fx.Node:
    """Add the node of `A`, `[N, K, h, w]`, beside a layer's, or return that where it is `A`."""
    if layout.kind == "nchw":
        return node
    build = _Builder(whole, node)
    if layout.kind == "nhwc":
        return build(_aten.permute.default, node, [0, 3, 1, 2])
    patches = build(_aten.transpose.int, node, 0, 1) if layout.tokens_first else node
    if layout.skipped:
        patches = build(_aten.slice.Tensor, patches, 1, layout.skipped, _TO_THE_END)
    columns = build(_aten.transpose.int, patches, 1, 2)
    return build(_aten.reshape.default, columns, [-1, *layout.shape])


def lead_through_map(
    whole: fx.GraphModule, node: fx.Node, feature_map: fx.Node, layout: Layout
) -> None:
    """Let everything after `node` depend on it through `feature_map`, put together again.

    Skipped tokens are not in the map: the head takes them from `node` as before.
    """
    if layout.kind == "nchw":
        return
    users = [user for user in node.users if not _makes(user, feature_map)]
    build = _Builder(whole, feature_map)
    if layout.kind == "nhwc":
        back = build(_aten.permute.default, feature_map, [0, 2, 3, 1])
    else:
        columns = build(_aten.flatten.using_ints, feature_map, 2, 3)
        back = build(_aten.transpose.int, columns, 1, 2)
        if layout.skipped:
            first = build(_aten.transpose.int, node, 0, 1) if layout.tokens_first else node
            skipped = build(_aten.slice.Tensor, first, 1, 0, layout.skipped)
            back = build(_aten.cat.default, [skipped, back], 1)
        if layout.tokens_first:
            back = build(_aten.transpose.int, back, 0, 1)
    back = build(_aten.contiguous.default, back)
    for user in users:
        user.replace_input_with(node, back)
    whole.graph.lint()
    whole.recompile()


def _makes(user: fx.Node, feature_map: fx.Node) -> bool:
    """Whether `user` lies on the short way from the layer to its map."""
    while user is not feature_map and len(user.users) == 1:
        user = next(iter(user.users))
    return user is feature_map


class _Builder:
    """Adds nodes one after the other behind a given one, with the values of their meta."""

    def __init__(self, whole: fx.GraphModule, after: fx.Node) -> None:
        self._graph, self._after = whole.graph, after

    def __call__(self, operator: Any, *args: Any) -> fx.Node:
        with self._graph.inserting_after(self._after):
            node = self._graph.call_function(operator, args)
        node.meta["val"] = operator(*fx.map_arg(args, lambda source: source.meta["val"]))
        self._after = node
        return node
