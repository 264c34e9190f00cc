"""Normalisations inside a head, differentiated with their scale held constant.

An L2 or layer normalisation maps `z` and `2 z` to the same value, so its Jacobian removes the
component along its own output, which is the very evidence for a similarity. For the
final normalisation the head ends before it. One in the middle (the last LayerNorm of a
transformer, the first of two normalisations around a whitening) is differentiated as
`x / c` with the number `c` of this image: what Ali et al. (XAI for Transformers: Better
Explanations through Conservative Propagation, 2022) do for every LayerNorm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

_aten = torch.ops.aten

_PRODUCTS = {_aten.mul.Tensor, _aten.div.Tensor, _aten.true_divide.Tensor}
_ROOTS = {
    _aten.sqrt.default,
    _aten.rsqrt.default,
    _aten.linalg_vector_norm.default,
    _aten.norm.ScalarOpt_dim,
}
# What stands between a norm and its use: a bound against zero, a new shape.
_PASSED_ON = {
    _aten.clamp_min.default, _aten.clamp.default, _aten.add.Tensor, _aten.maximum.default,
    _aten.reciprocal.default, _aten.expand.default, _aten.expand_as.default, _aten.view.default,
    _aten.unsqueeze.default,
}  # fmt: skip


def hold_scales(head: fx.GraphModule) -> None:
    """Let every normalisation of a head be differentiated as a product with a constant."""
    for node in list(head.graph.nodes):
        if node.target is _aten.layer_norm.default:
            node.target = layer_norm_with_held_scale
        elif node.target is _aten.rms_norm.default:
            node.target = rms_norm_with_held_scale
        elif node.target in _PRODUCTS:
            for scale in node.args:
                if isinstance(scale, fx.Node) and _is_scale(scale, node):
                    with head.graph.inserting_before(node):
                        held = head.graph.call_function(_aten.detach.default, (scale,))
                    held.meta = dict(scale.meta)
                    node.replace_input_with(scale, held)
    head.graph.lint()
    head.recompile()


def layer_norm_with_held_scale(
    value: torch.Tensor,
    shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    _cudnn_enable: bool = True,
) -> torch.Tensor:
    """`torch.nn.functional.layer_norm`, whose gradient takes the deviation as a constant."""
    dimensions = list(range(-len(shape), 0))
    centred = value - value.mean(dimensions, keepdim=True)
    variance = centred.detach().square().mean(dimensions, keepdim=True)
    result = centred * (variance + eps).rsqrt()
    if weight is not None:
        result = result * weight
    return result if bias is None else result + bias


def rms_norm_with_held_scale(
    value: torch.Tensor,
    shape: Sequence[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    """`torch.nn.functional.rms_norm`, whose gradient takes the root as a constant."""
    dimensions = list(range(-len(shape), 0))
    square = value.detach().square().mean(dimensions, keepdim=True)
    result = value * (square + (torch.finfo(value.dtype).eps if eps is None else eps)).rsqrt()
    return result if weight is None else result * weight


def _is_scale(scale: fx.Node, product: fx.Node) -> bool:
    """Whether a factor is a norm of a row, and not a value of its own at every place."""
    shape, whole = _shape(scale), _shape(product)
    if shape is None or whole is None or (shape == whole and not _is_expanded(scale)):
        return False
    waiting: list[fx.Node] = [scale]
    while waiting:
        node = waiting.pop()
        if node.target in _ROOTS:
            return True
        if node.target is _aten.pow.Tensor_Scalar and node.args[1] in (0.5, -0.5):
            return True
        if node.target in _PASSED_ON:
            waiting.extend(node.all_input_nodes)
    return False


def _is_expanded(node: fx.Node) -> bool:
    return node.target in (_aten.expand.default, _aten.expand_as.default)


def _shape(node: fx.Node) -> tuple[int | torch.SymInt, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
