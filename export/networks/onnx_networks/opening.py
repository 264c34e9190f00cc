"""An ONNX file opened as a network; where its embedding has to be named, what can be named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from foldcam.export.networks.feature_map import Grid
from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
from foldcam.export.networks.onnx_networks.input import image_input
from foldcam.export.networks.onnx_networks.questions import OutputChoiceError, offer
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.file import OnnxFile, ending_at
from foldcam.runtime.system.errors import FoldcamError

# Values that are tried where the outputs themselves are no embedding, and that are offered.
_MOST_INNER = 8
_MOST_OFFERED = 4


def open_onnx(
    file: OnnxFile,
    image_size: Grid,
    layer: str | None = None,
    exact: bool = True,
    device: Device = CPU,
) -> OnnxNetwork:
    """As `OnnxNetwork`, but names for --output are tried before they are proposed.

    Args:
        layer: name of the feature map's value or node, or None to find it.
    """
    try:
        return OnnxNetwork(file, image_size, layer, exact, device)
    except OutputChoiceError as question:
        raise answered(question, file, image_size) from None


def answered(question: OutputChoiceError, file: OnnxFile, image_size: Grid) -> FoldcamError:
    """The question with those of its choices that can be folded, as far as they are offered.

    Args:
        question: from the file.
        file: the network.
        image_size: `(height, width)` to try an open size with.
    """
    outputs = {str(value.name) for value in file.model.graph.output}
    inner = [name for name in question.choices if name not in outputs]
    asked = [name for name in question.choices if name in outputs] + inner[:_MOST_INNER]
    works, reason = _working(file, asked, image_size)
    if works:
        shapes = {name: shape or works[name] for name, shape in question.choices.items()
                  if name in works}  # fmt: skip
        named = {name: shape for name, shape in shapes.items() if name in outputs}
        named |= dict([each for each in shapes.items() if each[0] not in outputs][:_MOST_OFFERED])
        return FoldcamError(f"{question.problem}{offer(named)}")
    tried = f" (tried: {', '.join(map(repr, asked[:_MOST_OFFERED]))}: {reason})" if asked else ""
    return FoldcamError(
        f"{question.problem}, and no value of it was found that could be folded as the embedding "
        f"of one image{tried}: export a network that returns one embedding [N, D] per image."
    )


def _working(
    file: OnnxFile, names: Iterable[str], image_size: Grid
) -> tuple[Mapping[str, str], str]:
    """The names with which the network folds, the shape of each, and why the first does not."""
    works: dict[str, str] = {}
    reason = ""
    for name in names:
        try:
            cut = ending_at(file, name)
            size = image_input(cut.model.graph).size or image_size
            network = OnnxNetwork(cut, size, exact=False)
        except FoldcamError as error:
            reason = reason or str(error).rstrip(".")
        else:
            works[name] = f"N x {network.embedding_size}"
    return works, reason
