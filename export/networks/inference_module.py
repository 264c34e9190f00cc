"""Bringing a user's module to the form that torch.export can trace and foldcam can cut."""

from __future__ import annotations

import contextlib

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from foldcam.export.networks.outputs import unwrapped
from foldcam.runtime.system.errors import FoldcamError


def inference_module(module: nn.Module) -> nn.Module:
    """The network itself in eval mode, in float32, on the CPU, with frozen plain parameters."""
    module = unwrapped(module)
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and tensor.is_meta:
            raise FoldcamError(
                f"The network's {name!r} has no values, because it is on the meta device: build "
                "the module on the CPU and load its weights."
            )
    module = module.eval().float().cpu()
    _plain_parameters(module)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def tidy_graph(whole: fx.GraphModule) -> None:
    """Free a traced graph of what only holds for its caller or for its example."""
    for node in list(whole.graph.nodes):
        if node.target is torch.ops.aten.copy_.default and not node.users:
            # A network that writes into its image: nobody reads the image afterwards.
            if node.args[0].op == "placeholder":
                whole.graph.erase_node(node)
        elif node.target is torch.ops.aten.squeeze.default:
            # Without dimensions it would drop the batch as well where there is one image.
            (source,) = node.args
            shape = source.meta["val"].shape
            ones = [at for at, size in enumerate(shape) if isinstance(size, int) and size == 1]
            node.target, node.args = torch.ops.aten.squeeze.dims, (source, ones)
    whole.recompile()


@torch.no_grad()
def _plain_parameters(module: nn.Module) -> None:
    for inner in list(module.modules()):
        if parametrize.is_parametrized(inner):
            for name in list(inner.parametrizations):  # type: ignore[arg-type]
                # What cannot be taken off stays, and may be exported all the same.
                with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):
                    parametrize.remove_parametrizations(inner, name)
