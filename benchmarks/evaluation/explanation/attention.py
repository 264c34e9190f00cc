"""What a class token looks at: a baseline that asks nothing, where the network has one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.export.networks.onnx_networks.prepare import noise
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.session import GraphSession

Floats = npt.NDArray[np.float32]

# Class and register tokens in front of the patches; more is another kind of sequence.
_MOST_PREFIX = 32


class ClassAttention:
    """The last attention of one query over the patches, mean of heads.

    Args:
        session: the network, with the softmax's output.
        grid: `(h, w)`, patches.
    """

    def __init__(self, session: GraphSession, grid: tuple[int, int]) -> None:
        self._session = session
        self._grid = grid

    def __call__(self, images: Floats) -> Floats:
        """`float32 [N, h, w]` of images `float32 [N, 3, H, W]`."""
        (weights,) = self._session.run(images)
        return _over_patches(weights, len(images), self._grid)


def find_class_attention(
    model: onnx.ModelProto,
    image_size: tuple[int, int],
    grid: tuple[int, int],
    device: Device = CPU,
) -> ClassAttention | None:
    """The class token's last attention; None where the network has none.

    It is a softmax whose last axis is the patches behind a few tokens more, and whose first (or
    only) query is the class token. An attention of patches alone has no such query.

    Args:
        model: image -> feature map and embedding.
        image_size: `(height, width)` of the input in pixels.
        grid: `(h, w)` of the feature map.
        device: where it is computed.
    """
    names = [str(node.output[0]) for node in model.graph.node if node.op_type == "Softmax"]
    if not names:
        return None
    found = GraphSession(model, names).run(noise(image_size, 2))
    cells = grid[0] * grid[1]
    for name, weights in reversed(list(zip(names, found, strict=True))):
        if weights.ndim < 2 or weights.shape[0] % 2:
            continue
        queries, keys = weights.shape[-2:]
        prefix = keys - cells
        alone = queries == 1 and 0 <= prefix <= _MOST_PREFIX
        first = queries == keys and 1 <= prefix <= _MOST_PREFIX
        if alone or first:
            return ClassAttention(GraphSession(model, [name], device), grid)
    return None


def _over_patches(weights: npt.NDArray[np.float32], count: int, grid: tuple[int, int]) -> Floats:
    """`[N, heads, Q, T]` or `[N heads, Q, T]` -> the first query's, over the patches."""
    heads = weights.reshape(count, -1, *weights.shape[-2:])[:, :, 0]
    patches = heads[..., heads.shape[-1] - grid[0] * grid[1] :].mean(axis=1)
    return np.asarray(patches.reshape(count, *grid), np.float32)
