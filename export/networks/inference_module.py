"""Bringing a user's module to the form that torch.export can trace and foldcam can cut.

What it answers is checked: an embedding may depend on its own image alone.
"""

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


# Of the greatest value: blocked sums of different batches differ by far less.
_TOLERANCE = 1e-3


@torch.no_grad()
def check_answers(network: fx.GraphModule, images: torch.Tensor) -> None:
    """Ask a network for the same images twice, and for one of them alone.

    Args:
        network: image -> a tuple whose first value is the embedding `[N, D]`.
        images: `float32 [N, 3, H, W]`, at least two different ones.
    """
    # The caller's own random numbers stay as they are.
    with torch.random.fork_rng(devices=[]):
        first = network(images)[0]
        again = network(images)[0]
        alone = network(images[:1])[0]
    if not _same(first, again):
        named = ", ".join(_random_operators(network)) or "some operator"
        raise FoldcamError(
            "The network is not deterministic: it answers the same image differently each time "
            f"({named} draws random numbers in eval mode, too); make it depend on self.training."
        )
    if not _same(first[:1], alone):
        raise FoldcamError(
            "The network's answer to an image depends on the other images of its batch (a batch "
            "norm that is always in training mode?); make it depend on self.training."
        )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    known = torch.cat([one, other])
    greatest = float(known[known.isfinite()].abs().max()) if known.isfinite().any() else 0.0
    return torch.allclose(one, other, rtol=0, atol=_TOLERANCE * greatest, equal_nan=True)


def _random_operators(network: fx.GraphModule) -> list[str]:
    names = []
    for node in network.graph.nodes:
        tags = node.target.tags if isinstance(node.target, torch._ops.OpOverload) else ()
        # Dropout has the mark, and in eval mode an argument that says it does nothing.
        if torch.Tag.nondeterministic_seeded in tags and False not in node.args:
            names.append(node.target._schema.name.removeprefix("aten::"))
    return sorted(set(names))
