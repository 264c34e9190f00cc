"""Finding the feature map and the final normalisation in a torch.export graph.

The graph is a flat list of ATen operators with shapes, so the same search serves
every module that torch can export, whatever its Python looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from runtime.errors import FoldcamError

# Operators that hand on their first input's values unchanged (in eval mode), or
# multiplied by one positive constant: the direction of each row survives them.
_TRANSPARENT = {
    torch.ops.aten.view.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten.flatten.using_ints,
    torch.ops.aten.squeeze.dim,
    torch.ops.aten.squeeze.dims,
    torch.ops.aten.squeeze.default,
    torch.ops.aten.contiguous.default,
    torch.ops.aten.clone.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.detach.default,
    torch.ops.aten.dropout.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten.to.dtype,
    torch.ops.aten._assert_tensor_metadata.default,
}
_DIVISIONS = {torch.ops.aten.div.Tensor, torch.ops.aten.true_divide.Tensor}
_PRODUCTS = {torch.ops.aten.mul.Tensor}


@dataclass(frozen=True)
class Candidate:
    """A node whose output is spatial: `[N, K, h, w]` with h or w above 1.

    Attributes:
        name: what `--layer` accepts: the module's path if this is the module's
            last spatial output, else the node's own name (as `node:NAME` where a
            module has that path).
        node: the graph node.
        shape: `(K, h, w)`.
    """

    name: str
    node: fx.Node
    shape: tuple[int, int, int]


def spatial_shape(node: fx.Node) -> tuple[int, int, int] | None:
    """`(K, h, w)` of a node whose output is a float tensor `[N, K, h, w]`, else None."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.ndim != 4 or not value.is_floating_point():
        return None
    sizes = value.shape[1:]
    if not all(isinstance(size, int) for size in sizes):
        return None
    channels, height, width = (int(size) for size in sizes)
    return (channels, height, width) if height > 1 or width > 1 else None


def ancestors(node: fx.Node) -> set[fx.Node]:
    """Every node that `node` depends on, itself included."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(current.all_input_nodes)
    return found


def descendants(node: fx.Node) -> set[fx.Node]:
    """Every node that depends on `node`, itself included."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(current.users)
    return found


def candidates(graph: fx.Graph, image: fx.Node, embedding: fx.Node) -> list[Candidate]:
    """All spatial nodes between image and embedding, in the order of the graph."""
    between = ancestors(embedding) & descendants(image)
    nodes = [n for n in graph.nodes if n in between and n is not image and spatial_shape(n)]
    last_of_module = {module_path(node): node for node in nodes}
    paths = {path for node in nodes for path in module_paths(node)}
    result = []
    for node in nodes:
        path = module_path(node)
        shape = spatial_shape(node)
        assert shape is not None
        name = node.name
        if path and last_of_module[path] is node:
            name = path
        elif name in paths:
            # An activation module `relu` that is used twice: its first use is not `relu`.
            name = f"node:{name}"
        result.append(Candidate(name, node, shape))
    return result


def find_feature_map(graph: fx.Graph, image: fx.Node, embedding: fx.Node) -> Candidate:
    """The last activation with h, w > 1 that feeds the spatial reduction.

    A reduction whose result flows back into a spatial node (squeeze-and-excitation)
    is not the one that is looked for.

    Raises:
        FoldcamError: no node between image and embedding is spatial.
    """
    found = candidates(graph, image, embedding)
    if not found:
        raise FoldcamError(
            "The network has no spatial feature map between its image and its embedding: "
            "every tensor on the way has height and width 1, so there is no 'where' to show."
        )
    spatial = {candidate.node for candidate in found}
    on_the_way = ancestors(embedding)
    feeding = []
    for candidate in found:
        leaving = [u for u in candidate.node.users if u in on_the_way and u not in spatial]
        if any(not (descendants(user) & spatial) for user in leaving):
            feeding.append(candidate)
    # The last spatial node always feeds something that is not spatial.
    return feeding[-1]


def named_feature_map(graph: fx.Graph, image: fx.Node, embedding: fx.Node, layer: str) -> Candidate:
    """The candidate that `--layer` names: a node, or a module's last spatial output.

    Raises:
        FoldcamError: no such name; the message lists the candidates with shapes.
    """
    found = candidates(graph, image, embedding)
    for candidate in reversed(found):
        if layer == candidate.name:
            return candidate
    for candidate in reversed(found):
        if layer == candidate.node.name:
            return candidate
    for candidate in reversed(found):
        if any(path == layer for path in module_paths(candidate.node)):
            return Candidate(layer, candidate.node, candidate.shape)
    if any(layer in (*module_paths(node), node.name) for node in graph.nodes):
        raise FoldcamError(
            f"Layer {layer!r} has no spatial output with a gradient path to the embedding; "
            f"choose one of: {describe(found)}."
        )
    raise FoldcamError(f"The network has no layer {layer!r}; choose one of: {describe(found)}.")


def describe(found: list[Candidate], most: int = 12) -> str:
    """The last few candidates with their shapes, for a message."""
    shown = [f"{c.name} [{c.shape[0]} x {c.shape[1]} x {c.shape[2]}]" for c in found[-most:]]
    return ("... " if len(found) > most else "") + ", ".join(shown)


def find_normalization(embedding: fx.Node) -> fx.Node | None:
    """The input of the L2 normalisation that the embedding ends in, by structure.

    Recognised are `x / f(x)` and `x * f(x)` where `f(x)` is one number per row
    computed from `x` itself. The caller checks with numbers that `f` is the norm.

    Returns:
        The node of `x`, or None where the graph does not end so.
    """
    node = _through_transparent(embedding)
    if node.op != "call_function":
        return None
    if node.target in _DIVISIONS:
        pairs = [(node.args[0], node.args[1])]
    elif node.target in _PRODUCTS:
        pairs = [(node.args[0], node.args[1]), (node.args[1], node.args[0])]
    else:
        return None
    for value, scale in pairs:
        if (
            isinstance(value, fx.Node)
            and isinstance(scale, fx.Node)
            and value in ancestors(scale)
            and _is_row_scale(scale)
        ):
            return value
    return None


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that made the node, empty for the root."""
    paths = module_paths(node)
    return paths[-1] if paths else ""


def module_paths(node: fx.Node) -> list[str]:
    """Paths of all modules around the node, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [str(entry[0]) for entry in stack.values() if entry[0]]


def _through_transparent(node: fx.Node) -> fx.Node:
    while node.op == "call_function":
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            break
        scaled = _scaled_value(node)
        if node.target in _TRANSPARENT:
            node = source
        elif scaled is not None:
            node = scaled
        else:
            break
    return node


def _scaled_value(node: fx.Node) -> fx.Node | None:
    """`x` where the node is `x` times or over one number, else None.

    The number may be a learned temperature, whose sign is the caller's to check.
    """
    if node.target not in _DIVISIONS | _PRODUCTS or len(node.args) != 2:
        return None
    value, factor = node.args
    if node.target in _PRODUCTS and isinstance(value, fx.Node) and _is_one_number(value):
        value, factor = factor, value
    if not isinstance(value, fx.Node):
        return None
    if isinstance(factor, fx.Node):
        return value if _is_one_number(factor) else None
    return value if isinstance(factor, (int, float)) and factor > 0 else None


def _is_one_number(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if value is None and node.op == "get_attr":
        return False
    return isinstance(value, torch.Tensor) and all(
        isinstance(size, int) and size == 1 for size in value.shape
    )


def _is_row_scale(scale: fx.Node) -> bool:
    """Whether the node is one number per row, perhaps expanded to the row's length."""
    expansions = {torch.ops.aten.expand_as.default, torch.ops.aten.expand.default}
    while scale.op == "call_function" and scale.target in expansions:
        inner = scale.args[0]
        if not isinstance(inner, fx.Node):
            return False
        scale = inner
    value = scale.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return False
    return all(isinstance(size, int) and size == 1 for size in value.shape[1:])
