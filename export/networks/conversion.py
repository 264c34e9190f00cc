"""torch -> ONNX: the embedding network with its feature map as a second output."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy

import onnx
import onnx.version_converter
import torch
from torch import fx

from foldcam.export.onnx_graphs.embedding_model import BATCH, FEATURE_MAP, opset_of, strip_origin
from foldcam.export.onnx_graphs.opset import to_opset_17
from foldcam.export.onnx_graphs.rewrites import fold_constants, global_pools, sizes_of
from foldcam.export.onnx_graphs.values import rename
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE
from foldcam.runtime.system.errors import FoldcamError

# In front of the names of the ends until no value inside can have the same.
_PENDING = "foldcam.end."


def to_onnx(
    program: fx.GraphModule,
    image_size: tuple[int, int],
    feature_map_shape: tuple[int, int, int],
    embedding_size: int,
    opset: int,
) -> onnx.ModelProto:
    """Export `image -> (feature_map, embedding)` with a dynamic batch.

    Args:
        program: the graph, image -> (feature map, embedding).
        image_size: `(height, width)` of the input in pixels.
        feature_map_shape: `(K, h, w)`.
        embedding_size: `D`.
        opset: ONNX operator set of the file.

    Returns:
        A model without any path of the exporting machine; inputs and outputs
        `image float32 [batch, 3, H, W]`, `feature_map [batch, K, h, w]`,
        `embedding [batch, D]`.
    """
    example = torch.zeros(2, 3, *image_size)
    try:
        with _quiet():
            exported = torch.onnx.export(
                _with_plain_means(program),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[_PENDING + IMAGE],
                output_names=[_PENDING + FEATURE_MAP, _PENDING + EMBEDDING],
                dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
            )
    except Exception as error:
        # The exporter's own text is about its steps; the reason is what it comes from.
        cause = error.__cause__ or error
        first = (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")
        raise FoldcamError(
            f"torch cannot export the network to ONNX opset {opset}: {first}."
        ) from error
    assert exported is not None
    model = exported.model_proto
    strip_origin(model)
    # A module of the network's own may be called `embedding`, and its value is named so.
    rename(model.graph, {_PENDING + name: name for name in (IMAGE, FEATURE_MAP, EMBEDDING)})
    shapes: dict[str, tuple[int, ...]] = {
        IMAGE: (3, *image_size),
        FEATURE_MAP: feature_map_shape,
        EMBEDDING: (embedding_size,),
    }
    _static_shapes_but_batch(model, shapes)
    # The exporter leaves what it finds too large, such as positions brought to another size.
    fold_constants(model)
    global_pools(model.graph, sizes_of(model.graph))
    return model if opset_of(model) == opset else _converted(model, opset)


def _with_plain_means(program: fx.GraphModule) -> fx.GraphModule:
    """The program with means where a transformer pools all of its tokens adaptively.

    torch's exporter writes that pooling as positions that it computes from the batch, which
    neither a rule of differentiation nor TensorRT has a use for.
    """
    pool = torch.ops.aten.adaptive_avg_pool1d.default
    if not any(node.target is pool and list(node.args[1]) == [1] for node in program.graph.nodes):
        return program
    # The program itself is what the network's hash is taken of.
    graph = deepcopy(program.graph)
    for node in graph.nodes:
        if node.target is pool and list(node.args[1]) == [1]:
            node.target, node.args = torch.ops.aten.mean.dim, (node.args[0], [-1], True)
    return fx.GraphModule(program, graph)


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """torch's exporter gives up on opsets below 18 where ONNX's own converter does not."""
    try:
        if (opset_of(model), opset) == (18, 17):
            converted = to_opset_17(model)
        else:
            converted = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted, full_check=True)
    except FoldcamError:
        raise
    except Exception as error:
        # A C++ library, whose exceptions have no type in common.
        raise FoldcamError(
            f"torch exported the network in ONNX opset {opset_of(model)}, which cannot be "
            f"converted to {opset} ({str(error).splitlines()[0]}): use --opset {opset_of(model)}."
        ) from error
    strip_origin(converted)
    return converted


def _static_shapes_but_batch(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Name the batch and fix the other dimensions of inputs and outputs."""
    for value in [*model.graph.input, *model.graph.output]:
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.add().dim_param = BATCH
        for size in shapes[value.name]:
            shape.dim.add().dim_value = size


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
