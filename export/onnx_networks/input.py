"""What an ONNX network takes: one image, brought to `image float32 [batch, 3, H, W]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx
from onnx import TensorProto, helper

from export.onnx_graphs.embedding_model import BATCH
from export.onnx_graphs.values import PREPARED, graphs, rename
from runtime.contract import IMAGE
from runtime.errors import FoldcamError

_FLOATS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


@dataclass(frozen=True)
class ImageInput:
    """The one input of a network.

    Attributes:
        name: in the file.
        kind: channels first or last.
        size: `(height, width)` in pixels, None where the file leaves it open.
        batch: the batch that the file was made for, None where it is open.
        dtype: ONNX's number of the element type, float32 or float16.
    """

    name: str
    kind: Literal["nchw", "nhwc"]
    size: tuple[int, int] | None
    batch: int | None
    dtype: int


def image_input(graph: onnx.GraphProto) -> ImageInput:
    """Find the image among a graph's inputs.

    Raises:
        FoldcamError: it is not one float image of three channels.
    """
    weights = {tensor.name for tensor in graph.initializer}
    # Before IR version 4 every weight was listed as an input as well.
    given = [value for value in graph.input if value.name not in weights]
    if len(given) != 1:
        names = ", ".join(repr(value.name) for value in given) or "none"
        ends = ", ".join(f"--output {name!r}" for name in _before_they_meet(graph, given)[:4])
        offer = f", such as {ends}" if ends else ""
        raise FoldcamError(
            f"The network takes {len(given)} inputs ({names}) where one image is needed: name the "
            f"embedding of one image with --output NAME{offer}, or export its image part alone."
        )
    (value,) = given
    kind = value.type.tensor_type
    if kind.elem_type not in _FLOATS:
        raise FoldcamError(
            f"The network's input {value.name!r} is "
            f"{TensorProto.DataType.Name(kind.elem_type).lower()}, and float32 pixels, normalised, "
            "are needed: cut off what prepares the image before it is exported (--input uint8 "
            "puts it back)."
        )
    sizes = [dim.dim_value or None for dim in kind.shape.dim]
    if len(sizes) == 4 and sizes[1] == 3:
        batch, _, height, width = sizes
        layout: Literal["nchw", "nhwc"] = "nchw"
    elif len(sizes) == 4 and sizes[3] == 3 and (sizes[1] is None or sizes[1] > 3):
        batch, height, width, _ = sizes
        layout = "nhwc"
    elif len(sizes) == 4 and sizes[1] is None:
        # Every dimension is open, as some exporters leave them; most put channels first.
        batch, _, height, width = sizes
        layout = "nchw"
    else:
        shape = " x ".join(str(size or "?") for size in sizes) or "open"
        raise FoldcamError(
            f"The network's input {value.name!r} has the shape {shape}, which is no batch of "
            "images with three channels, [N, 3, H, W] or [N, H, W, 3]."
        )
    size = (height, width) if height and width else None
    return ImageInput(str(value.name), layout, size, batch, kind.elem_type)


def _before_they_meet(graph: onnx.GraphProto, given: Sequence[onnx.ValueInfoProto]) -> list[str]:
    """Values of one input alone that a node joins with those of another, the last first."""
    owners = {str(value.name): {str(value.name)} for value in given}
    ends: dict[str, None] = {}
    for node in graph.node:
        known = {name: owners[name] for name in map(str, node.input) if name in owners}
        together = set().union(*known.values())
        owners.update({str(name): together for name in node.output})
        if len(together) > 1:
            ends.update(dict.fromkeys(name for name, of in known.items() if len(of) == 1))
    return [name for name in reversed(ends) if name not in {str(value.name) for value in given}]


def take_image(model: onnx.ModelProto, given: ImageInput, image_size: tuple[int, int]) -> None:
    """Let the graph take `image float32 [batch, 3, H, W]`, whatever it took before.

    Args:
        model: changed in place.
        given: its input, from `image_input`.
        image_size: `(height, width)` in pixels.

    Raises:
        FoldcamError: the network was made for another size.
    """
    if given.size is not None and given.size != image_size:
        height, width = given.size
        raise FoldcamError(
            f"The network takes images of {width} x {height} pixels and no others: leave --size "
            f"out, or say --size {width}x{height}."
        )
    graph = model.graph
    rename(graph, {given.name: IMAGE} if given.name != IMAGE else {})
    inner, added = IMAGE, []
    if given.dtype != TensorProto.FLOAT or given.kind == "nhwc":
        inner = f"{PREPARED}given"
        for node in (node for each in graphs(graph) for node in each.node):
            for position, name in enumerate(node.input):
                if name == IMAGE:
                    node.input[position] = inner
    source = IMAGE
    if given.dtype != TensorProto.FLOAT:
        target = f"{PREPARED}half" if given.kind == "nhwc" else inner
        added.append(
            helper.make_node("Cast", [source], [target], f"{PREPARED}to_half", to=given.dtype)
        )
        source = target
    if given.kind == "nhwc":
        added.append(
            helper.make_node(
                "Transpose", [source], [inner], f"{PREPARED}to_nhwc", perm=[0, 2, 3, 1]
            )
        )
    nodes = [*added, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.append(
        helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [BATCH, 3, *image_size])
    )
