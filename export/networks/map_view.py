"""Reading a layer's output as a feature map, inside a torch graph.

Two views of one tensor `T`: `A`, `[N, K, h, w]`, on which everything in foldcam works,
and `T` put together from `A` again, which is what the head goes on with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from foldcam.export.networks.feature_map import Layout

_aten = torch.ops.aten
_TO_THE_END = 2**63 - 1


def add_map(whole: fx.GraphModule, node: fx.Node, layout: Layout) -> fx.Node:
    """Add the node of `A` beside `node`; returns it, or `node` where that is `A`."""
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
    """Let everything after `node` depend on it through `feature_map`.

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
