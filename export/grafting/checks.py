"""What an embedding network must be so that a bank can be folded into it."""

from __future__ import annotations

import onnx

from foldcam.export.banks.bank import Bank
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP, marked_summands
from foldcam.export.onnx_graphs.values import rename
from foldcam.runtime.contract.schema import (
    CONTRAST,
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    IMAGE,
    NEIGHBOR,
    RUNNER_UP,
    RUNNER_UP_SIMILARITY,
    SIMILARITY,
    SummandKind,
)
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

_OUTPUTS = (
    HEATMAP, HEATMAP_LOWER, ESTIMATE, NEIGHBOR, SIMILARITY, CONTRIBUTION, CONTRAST, RUNNER_UP,
    RUNNER_UP_SIMILARITY,
)  # fmt: skip

_SUMMANDS: dict[SummandKind, str] = {
    "pool": "the summands of a pool",
    "depthwise": "the summands of a depthwise kernel",
    "linear": "the summands of a linear layer",
    "attention": "the summands of an attention",
    "none": "its last spatial activation",
}


def feature_map_shape(model: onnx.ModelProto) -> tuple[int, int, int]:
    """`(K, h, w)` of the model's output `feature_map`."""
    outputs = {value.name: value for value in model.graph.output}
    for name in (FEATURE_MAP, EMBEDDING):
        if name not in outputs:
            raise FoldcamError(
                f"The model has no output {name!r} (it has {', '.join(outputs)}): fold needs an "
                "embedding network exported with its feature map."
            )
    shape = [dim.dim_value for dim in outputs[FEATURE_MAP].type.tensor_type.shape.dim]
    if len(shape) != 4 or min(shape[1:]) < 1:
        raise FoldcamError(f"The output {FEATURE_MAP!r} has no fixed shape [N, K, h, w].")
    return shape[1], shape[2], shape[3]


def check_input(model: onnx.ModelProto, preprocessing: Preprocessing) -> None:
    """Whether the preprocessing makes what the model takes.

    Args:
        model: with float images `[N,3,H,W]`, or uint8 images `[N,H,W,3]` where `takes_uint8`.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if [value.name for value in inputs] != [IMAGE]:
        raise FoldcamError(
            f"The model's inputs are {', '.join(value.name for value in inputs) or 'none'} where "
            f"fold needs one, {IMAGE!r}."
        )
    sizes = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]
    wanted = [3, preprocessing.height, preprocessing.width]
    if takes_uint8(model):
        wanted = [*wanted[1:], 3]
    # Zero stands for a size that the file leaves open.
    if len(sizes) != 4 or any(
        has not in (0, needs) for has, needs in zip(sizes[1:], wanted, strict=True)
    ):
        raise FoldcamError(
            f"The model takes images of shape {sizes[1:]} and its preprocessing makes {wanted}."
        )


def takes_uint8(model: onnx.ModelProto) -> bool:
    """Whether the normalisation of uint8 images is in the network already."""
    return any(
        value.name == IMAGE and value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        for value in model.graph.input
    )


def free_names(graph: onnx.GraphProto) -> None:
    """Rename what in the network has the name of one of the folded model's outputs."""
    rename(graph, {}, _OUTPUTS)


def check_summands(model: onnx.ModelProto, bank: Bank) -> None:
    """Whether the bank's grad-weights belong to the model's feature map."""
    kind, _ = marked_summands(model)
    needed = "none" if bank.summands is None else bank.summands
    if kind != needed:
        raise FoldcamError(
            f"The bank's grad-weights are those of {_SUMMANDS[needed]} and the network's feature "
            f"map is {_SUMMANDS[kind]}: build the bank with this network again."
        )


def check_mean(bank: Bank, feature_map: tuple[int, int, int]) -> None:
    """Whether the bank's mean over the training images, if it holds one, is of such maps."""
    mean = bank.mean_summands
    if mean is not None and mean.shape != feature_map:
        has, needs = (" x ".join(map(str, shape)) for shape in (mean.shape, feature_map))
        raise FoldcamError(
            f"The bank's mean over its training images is {has} and the network's feature map "
            f"{needs}: build the bank with images of the size that the network takes, or pass "
            "--baseline none."
        )


def check_sizes(model: onnx.ModelProto, bank: Bank, channels: int) -> None:
    """Whether the bank has the network's D and K."""
    outputs = {value.name: value for value in model.graph.output}
    size = outputs[EMBEDDING].type.tensor_type.shape.dim[1].dim_value
    needed = size if bank.rule == "own" else channels
    for what, has, needs in (
        ("embeddings of size", bank.embedding_size, size),
        ("grad-weights for channels", bank.channels, needed),
    ):
        if has != needs:
            raise FoldcamError(
                f"The bank was made by another network: it holds {what} {has} and the network has "
                f"{needs}; build the bank with this network."
            )
