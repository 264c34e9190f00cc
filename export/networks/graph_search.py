"""Walking a torch.export graph, and finding the final normalisation in it.

The graph is a flat list of ATen operators with shapes, so the same search serves
every module that torch can export, whatever its Python looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import fx
from torch.nn import functional

from foldcam.export.networks.outputs import WRAPPED

# Operators that hand on their first input's values unchanged (in eval mode), or
# multiplied by one positive constant: the direction of each row survives them.
_TRANSPARENT = {
    torch.ops.aten.view.default, torch.ops.aten.reshape.default, torch.ops.aten.flatten.using_ints,
    torch.ops.aten.squeeze.dim, torch.ops.aten.squeeze.dims, torch.ops.aten.squeeze.default,
    torch.ops.aten.contiguous.default, torch.ops.aten.clone.default, torch.ops.aten.alias.default,
    torch.ops.aten.detach.default, torch.ops.aten.dropout.default, torch.ops.aten._to_copy.default,
    torch.ops.aten.to.dtype, torch.ops.aten._assert_tensor_metadata.default,
}  # fmt: skip
_DIVISIONS = {torch.ops.aten.div.Tensor, torch.ops.aten.true_divide.Tensor}
_PRODUCTS = {torch.ops.aten.mul.Tensor}


def ancestors(node: fx.Node) -> set[fx.Node]:
    """Every node that `node` depends on, itself included."""
    return _reached(node, lambda each: each.all_input_nodes)


def descendants(node: fx.Node) -> set[fx.Node]:
    """Every node that depends on `node`, itself included."""
    return _reached(node, lambda each: each.users)


def _reached(node: fx.Node, following: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(following(current))
    return found


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


def ends_in_layer_norm(embedding: fx.Node) -> bool:
    """Whether the embedding is a layer normalisation's output, or one token's of it."""
    node = _through_transparent(embedding)
    while node.target in (torch.ops.aten.select.int, torch.ops.aten.slice.Tensor):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = _through_transparent(source)
    return node.target in (torch.ops.aten.layer_norm.default, torch.ops.aten.rms_norm.default)


def ends_in_softmax(embedding: fx.Node) -> bool:
    """Whether the output is a softmax's, or its logarithm: a classifier's scores."""
    return _through_transparent(embedding).target in (
        torch.ops.aten.softmax.int,
        torch.ops.aten._softmax.default,
        torch.ops.aten.log_softmax.int,
        torch.ops.aten._log_softmax.default,
    )


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that made the node, empty for the root."""
    paths = module_paths(node)
    return paths[-1] if paths else ""


def module_paths(node: fx.Node) -> list[str]:
    """Paths of all modules around the node, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]).removeprefix(WRAPPED).removeprefix(".") for entry in stack.values()]
    return [path for path in paths if path]


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


def judge_normalization(embedding: torch.Tensor, before: torch.Tensor | None) -> tuple[bool, bool]:
    """Confirm with numbers what a graph's structure suggests.

    Args:
        embedding: `float32 [N, D]` of a few images.
        before: `float32 [N, D]`, what seems to be the normalisation's input, or None.
    """
    norms = embedding.norm(dim=1)
    unit = bool((norms.std() <= 1e-4 * norms.mean()) & (norms.mean() > 0))
    if before is None or before.shape != embedding.shape:
        return unit, False
    cosines = functional.cosine_similarity(embedding, before)
    return unit, unit and bool((cosines > 1 - 1e-5).all())
