"""Whether a network's answer to an image depends on that image alone."""

from __future__ import annotations

import torch
from torch import fx

from foldcam.runtime.system.errors import FoldcamError

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
