"""Any torch module seen as image -> (feature map, embedding), cut at the feature map.

`torch.export` turns the module into one flat graph. The graph is cut in two:
the trunk, image -> feature map, which is never differentiated, and the head,
feature map -> embedding, through which directions are pulled back.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import dataclass

import torch
from torch import fx, nn

from export import graph_search
from export.graph_search import Candidate
from runtime.errors import FoldcamError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Activations:
    """One forward pass over a batch.

    Attributes:
        feature_map: `float32 [N, K, h, w]`, detached.
        embedding: `float32 [N, D]`, the network's own output, detached.
        context: other values that the head needs and that do not depend on the
            feature map (skip connections, sizes).
    """

    feature_map: torch.Tensor
    embedding: torch.Tensor
    context: tuple[torch.Tensor | int, ...]


class Network:
    """A torch module in eval mode, exported and cut at its feature map.

    Args:
        module: image `float32 [N, 3, H, W]` -> embedding `[N, D]`.
        image_size: `(height, width)` of the input in pixels.
        layer: name of the feature map, or None to find it.

    Attributes:
        layer: name of the feature map.
        feature_map_shape: `(K, h, w)`.
        embedding_size: `D`.
        normalized: whether the network ends in an L2 normalisation.
        head_before_normalization: whether the head ends at that normalisation's
            input. False only where the output is normalised but the place was
            not found; directions are then pulled through it.
        program: the whole graph, image -> (feature map, embedding).

    Raises:
        FoldcamError: torch cannot export the module; it has no feature map; the
            named layer does not exist or does not lead to the embedding; the
            output is not one embedding per image.
    """

    def __init__(
        self, module: nn.Module, image_size: tuple[int, int], layer: str | None = None
    ) -> None:
        self.image_size = image_size
        whole = _exported(module, image_size)
        image, embedding = _ends(whole)
        if layer is None:
            chosen = graph_search.find_feature_map(whole.graph, image, embedding)
        else:
            chosen = graph_search.named_feature_map(whole.graph, image, embedding, layer)
        self._candidates = graph_search.candidates(whole.graph, image, embedding)
        self.layer = chosen.name
        self.feature_map_shape = chosen.shape
        self.embedding_size = int(embedding.meta["val"].shape[1])
        head_end = self._find_head_end(whole, embedding)
        _check_gradient_path(chosen, head_end, self._candidates)
        self._trunk, self._head, self.program = _cut(whole, image, chosen.node, head_end, embedding)

    @property
    def candidates(self) -> list[Candidate]:
        """Every node that could be the feature map."""
        return self._candidates

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> Activations:
        """One forward pass.

        Args:
            images: `float32 [N, 3, H, W]`, preprocessed.
        """
        feature_map, *context = self._trunk(images)
        _, embedding = self._head(feature_map, *context)
        return Activations(feature_map, embedding, tuple(context))

    @torch.no_grad()
    def head_end(self, activations: Activations) -> torch.Tensor:
        """`float32 [N, D]`: the embedding before its normalisation, where the network has one."""
        head_end, _ = self._head(activations.feature_map, *activations.context)
        before: torch.Tensor = head_end.flatten(1)
        return before

    def pull_back_map(self, activations: Activations, directions: torch.Tensor) -> torch.Tensor:
        """Vector-Jacobian product of `directions` through the head.

        Args:
            activations: from `forward`, N images.
            directions: `float32 [N, D]`, one per image.

        Returns:
            `float32 [N, K, h, w]`: gradient of `sum(direction * z)` with respect to
            the feature map, where `z` is the head's end (the input of the final
            normalisation, or the embedding where there is none).
        """
        feature_map = activations.feature_map.detach().requires_grad_(True)
        with torch.enable_grad():
            head_end, _ = self._head(feature_map, *activations.context)
            if not head_end.requires_grad:
                # The head detaches or rounds: nothing flows back.
                return torch.zeros_like(feature_map)
            (gradient,) = torch.autograd.grad(
                head_end.flatten(1), feature_map, grad_outputs=directions, allow_unused=True
            )
        return torch.zeros_like(feature_map) if gradient is None else gradient

    def pull_back(self, activations: Activations, directions: torch.Tensor) -> torch.Tensor:
        """Grad-weights `float32 [N, K]`: the spatial mean of `pull_back_map`."""
        return self.pull_back_map(activations, directions).mean(dim=(2, 3))

    def head_is_linear(self, activations: Activations) -> bool:
        """Whether the head's Jacobian is the same wherever it is taken.

        Tried on random feature maps of both signs, where a ReLU, a gate or an
        attention in the head would show.
        """
        generator = torch.Generator().manual_seed(0)
        count = activations.feature_map.shape[0]
        if count < 2:
            return False
        direction = torch.randn(self.embedding_size, generator=generator).expand(count, -1)
        scale = activations.feature_map.abs().amax().clamp_min(1e-6)
        noise = torch.randn(activations.feature_map.shape, generator=generator) * scale
        elsewhere = Activations(noise, activations.embedding, activations.context)
        pulled = torch.cat(
            [self.pull_back_map(point, direction) for point in (activations, elsewhere)]
        )
        size = pulled.abs().amax().clamp_min(1e-30)
        return bool(((pulled - pulled[:1]).abs().amax() / size) < 1e-4)

    def head_depends_on_position(self, activations: Activations) -> bool:
        """Whether the head weights positions differently (flatten, global depthwise).

        For such a head the spatial mean in the grad-weights loses the position.
        """
        generator = torch.Generator().manual_seed(0)
        count = activations.feature_map.shape[0]
        direction = torch.randn(self.embedding_size, generator=generator).expand(count, -1)
        pulled = self.pull_back_map(activations, direction)
        spread = (pulled - pulled.mean(dim=(2, 3), keepdim=True)).abs().amax()
        return bool(spread > 1e-4 * pulled.abs().amax().clamp_min(1e-30))

    def sha256(self) -> str:
        """Hash of the parameters, the buffers and the operators with their arguments."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.program.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        for node in self.program.graph.nodes:
            digest.update(f"{node.op} {node.target} {node.args} {node.kwargs};".encode())
        return digest.hexdigest()

    def _find_head_end(self, whole: fx.GraphModule, embedding: fx.Node) -> fx.Node:
        """Sets `normalized` and `head_before_normalization`."""
        source = graph_search.find_normalization(embedding)
        probe = _probe(whole, self.image_size, [embedding, source or embedding])
        output, before = (value.flatten(1) for value in probe)
        norms = output.norm(dim=1)
        unit = bool((norms.std() <= 1e-4 * norms.mean()) & (norms.mean() > 0))
        cosines = nn.functional.cosine_similarity(output, before)
        confirmed = source is not None and unit and bool((cosines > 1 - 1e-5).all())
        # A constant norm with no normalisation in the graph is a coincidence of
        # one-dimensional outputs at most; it changes nothing about the head's end.
        self.normalized = unit
        self.head_before_normalization = confirmed or not unit
        if confirmed and source is not None:
            return source
        if unit:
            _log.warning(
                "The embedding is normalised, but the place where it happens was not found: "
                "directions are pulled through the normalisation, which weakens the heatmaps."
            )
        return embedding


def _exported(module: nn.Module, image_size: tuple[int, int]) -> fx.GraphModule:
    module = module.eval().float().cpu()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    example = _example(image_size, 2)
    try:
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
    return program_module(program)


def _writes_in_place(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def program_module(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a module without guards, so that it can be cut.

    Raises:
        FoldcamError: the program was exported for one batch size only, or torch
            cannot make a module of it.
    """
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
    outputs = [node for node in _flat(output.args[0]) if _is_embedding(node)]
    if len(outputs) != 1:
        raise FoldcamError(
            f"The network returns {len(outputs)} tensors of shape [N, D] where one embedding is "
            "needed; wrap it so that it returns the embedding alone."
        )
    if _is_fixed(outputs[0].meta["val"].shape[0]):
        raise FoldcamError(
            f"The network returns {outputs[0].meta['val'].shape[0]} rows whatever the batch: it "
            "must return one embedding per image."
        )
    return images[0], outputs[0]


def _flat(value: object) -> list[fx.Node]:
    if isinstance(value, fx.Node):
        return [value]
    if isinstance(value, (tuple, list)):
        return [node for item in value for node in _flat(item)]
    return []


def _is_embedding(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.ndim == 2 and value.is_floating_point()


def _check_gradient_path(chosen: Candidate, head_end: fx.Node, found: list[Candidate]) -> None:
    if chosen.node not in graph_search.ancestors(head_end):
        raise FoldcamError(
            f"Layer {chosen.name!r} has no gradient path to the embedding; choose one of: "
            f"{graph_search.describe(found)}."
        )


def _cut(
    whole: fx.GraphModule,
    image: fx.Node,
    feature_map: fx.Node,
    head_end: fx.Node,
    embedding: fx.Node,
) -> tuple[fx.GraphModule, fx.GraphModule, fx.GraphModule]:
    """Trunk `image -> (A, *context)`, head `(A, *context) -> (z, embedding)`, and the whole."""
    after = graph_search.descendants(feature_map) - {feature_map}
    needed = graph_search.ancestors(embedding) | graph_search.ancestors(head_end)
    head_nodes = [node for node in whole.graph.nodes if node in after and node in needed]
    context: list[fx.Node] = []
    for node in head_nodes:
        for source in node.all_input_nodes:
            outside = source is not feature_map and source not in after
            if outside and source.op != "get_attr" and source not in context:
                context.append(source)
    trunk = _subgraph(whole, [image], [feature_map, *context])
    head = _subgraph(whole, [feature_map, *context], [head_end, embedding])
    program = _subgraph(whole, [image], [feature_map, embedding])
    return trunk, head, program


def _subgraph(
    whole: fx.GraphModule, inputs: list[fx.Node], outputs: list[fx.Node]
) -> fx.GraphModule:
    needed: set[fx.Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            if node not in inputs:
                waiting.extend(node.all_input_nodes)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in whole.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output(tuple(copies[node] for node in outputs))
    module = fx.GraphModule(whole, graph)
    module.graph.lint()
    return module


@torch.no_grad()
def _probe(
    whole: fx.GraphModule, image_size: tuple[int, int], nodes: list[fx.Node]
) -> list[torch.Tensor]:
    (image,) = (node for node in whole.graph.nodes if node.op == "placeholder")
    values = _subgraph(whole, [image], nodes)(_example(image_size, 3))
    return [value.float() for value in values]


def _example(image_size: tuple[int, int], count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, *image_size, generator=generator)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
