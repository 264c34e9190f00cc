"""What an ONNX network takes: one image, brought to `image float32 [batch, 3, H, W]`.

Where inputs or outputs are several, which value is the embedding is a question to the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

import onnx
from onnx import TensorProto, helper

from foldcam.export.onnx_graphs.embedding_model import BATCH
from foldcam.export.onnx_graphs.values import PREPARED, graphs, inputs_of, refill, rename
from foldcam.runtime.contract.schema import IMAGE
from foldcam.runtime.system.errors import FoldcamError

_FLOATS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


@dataclass(frozen=True)
class ImageInput:
    """The one input of a network.

    Attributes:
        name: its name in the file.
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
    """Find the image among a graph's inputs."""
    weights = {tensor.name for tensor in graph.initializer}
    # Before IR version 4 every weight was listed as an input as well.
    given = [value for value in graph.input if value.name not in weights]
    if not given:
        raise FoldcamError(
            "The network takes no input: its answer depends on constants alone, and one image is "
            "needed."
        )
    if len(given) > 1:
        _refuse_several(graph, given)
    (value,) = given
    return _as_image(value)


def _as_image(value: onnx.ValueInfoProto) -> ImageInput:
    """How an input is read as an image."""
    if value.type.WhichOneof("value") != "tensor_type":
        raise FoldcamError(
            f"The network's input {value.name!r} is a sequence or an optional value, and one "
            "image, a tensor [N, 3, H, W], is needed."
        )
    kind = value.type.tensor_type
    sizes: list[int | None] = [dim.dim_value or None for dim in kind.shape.dim]
    if not kind.HasField("shape"):
        # Not even how many dimensions there are: most put channels first.
        sizes = [None] * 4
    _refuse_other_shapes(value.name, sizes)
    _refuse_other_types(value.name, kind.elem_type)
    if sizes[1] == 3:
        batch, _, height, width = sizes
        layout: Literal["nchw", "nhwc"] = "nchw"
    elif sizes[3] == 3 and (sizes[1] is None or sizes[1] > 3):
        batch, height, width, _ = sizes
        layout = "nhwc"
    else:
        # Every dimension is open, as some exporters leave them; most put channels first.
        batch, _, height, width = sizes
        layout = "nchw"
    size = (height, width) if height and width else None
    return ImageInput(str(value.name), layout, size, batch, kind.elem_type)


def _refuse_other_types(name: str, dtype: int) -> None:
    if dtype in _FLOATS:
        return
    shown = TensorProto.DataType.Name(dtype).lower()
    if dtype in (TensorProto.DOUBLE, TensorProto.BFLOAT16):
        raise FoldcamError(
            f"The network's input {name!r} is {shown}, and float32 or float16 is needed: export "
            "the network in one of these."
        )
    raise FoldcamError(
        f"The network's input {name!r} is {shown}, and float32 pixels, normalised, "
        "are needed: cut off what prepares the image before it is exported (--input uint8 "
        "puts it back)."
    )


def _refuse_other_shapes(name: str, sizes: Sequence[int | None]) -> None:
    """What no image has: other dimensions than four, other channels than three."""
    shape = " x ".join(str(size or "?") for size in sizes) or "of a single number"
    has = f"The network's input {name!r} has the shape {shape}"
    if len(sizes) == 3 and 3 in (sizes[0], sizes[2]):
        raise FoldcamError(
            f"{has}, one image without a batch: export it for [N, 3, H, W], or [N, H, W, 3], with "
            "a first dimension for the images."
        )
    if len(sizes) != 4:
        raise FoldcamError(
            f"{has}: that is no batch of images, [N, 3, H, W] or [N, H, W, 3], and foldcam folds "
            "networks that look at images (not sound, text or films)."
        )
    last_is_colour = sizes[3] == 3 and (sizes[1] is None or sizes[1] > 3)
    if sizes[1] not in (None, 3) and not last_is_colour:
        grey = sizes[1] == 1 or sizes[3] == 1
        raise FoldcamError(
            f"{has}, which is no batch of images with three channels, [N, 3, H, W] or "
            "[N, H, W, 3]"
            + (
                ": let the network take three and average them, before it is exported."
                if grey
                else "."
            )
        )


def _refuse_several(graph: onnx.GraphProto, given: Sequence[onnx.ValueInfoProto]) -> NoReturn:
    """More inputs than one: whether some value depends on an image alone."""
    names = ", ".join(repr(value.name) for value in given)
    images = []
    for value in given:
        try:
            _as_image(value)
        except FoldcamError:
            continue
        images.append(str(value.name))
    if not images:
        raise FoldcamError(
            f"The network takes {len(given)} inputs ({names}), none of which is a batch of images, "
            "float32 [N, 3, H, W] or [N, H, W, 3]: foldcam folds networks that look at images."
        )
    owners = _owners(graph, given)
    ends = [str(value.name) for value in graph.output]
    ends += [name for name in _before_they_meet(graph, owners) if name not in ends]
    alone = [name for name in ends if len(owners.get(name, ())) == 1]
    of_image = [name for name in alone if owners[name] <= set(images) and name not in images]
    raise OutputChoiceError(
        f"The network takes {len(given)} inputs ({names}) where one image is needed",
        dict.fromkeys(of_image, ""),
    )


def _owners(
    graph: onnx.GraphProto, given: Sequence[onnx.ValueInfoProto]
) -> dict[str, frozenset[str]]:
    """The inputs that each value depends on."""
    owners = {str(value.name): frozenset([str(value.name)]) for value in given}
    for node in graph.node:
        of = frozenset[str]().union(*(owners.get(name, ()) for name in inputs_of(node)))
        owners.update({str(name): of for name in node.output if name})
    return owners


def _before_they_meet(graph: onnx.GraphProto, owners: Mapping[str, frozenset[str]]) -> list[str]:
    """Values of one input alone that a node joins with those of another, the last first."""
    ends: dict[str, None] = {}
    for node in graph.node:
        known = [name for name in inputs_of(node) if owners.get(name)]
        if len({source for name in known for source in owners[name]}) > 1:
            ends.update(dict.fromkeys(name for name in known if len(owners[name]) == 1))
    return list(reversed(ends))


def take_image(model: onnx.ModelProto, given: ImageInput, image_size: tuple[int, int]) -> None:
    """Let the graph take `image float32 [batch, 3, H, W]`, whatever it took before."""
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
    refill(graph.node, nodes)
    refill(
        graph.input,
        [helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [BATCH, 3, *image_size])],
    )


class OutputChoiceError(FoldcamError):
    """Which value is the embedding has to be said with --output.

    Args:
        problem: the first half of the sentence, without its end.
        choices: what may be named, likeliest first, and the shape of each, empty where unknown.
            They look like embeddings; whether they can be folded is for
            `export.networks.onnx_networks.cut` to try.
    """

    def __init__(self, problem: str, choices: Mapping[str, str]) -> None:
        self.problem, self.choices = problem, dict(choices)
        super().__init__(f"{problem}{offer(self.choices)}")


def offer(choices: Mapping[str, str]) -> str:
    """The second half of the sentence: what to name."""
    shown = ", ".join(
        repr(name) + (f" [{shape}]" if shape else "") for name, shape in choices.items()
    )
    if not shown:
        return ": name a value inside the graph that is one with --output NAME."
    return (
        f": choose one with --output: {shown}." if len(choices) > 1 else f": say --output {shown}."
    )
