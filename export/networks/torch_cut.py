"""A torch module as an embedding network: exported to a flat graph, cut in two, and to ONNX."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from functools import cached_property

import onnx
import onnx.version_converter
import torch
from torch import fx, nn

from foldcam.export.networks.cut import CutPoints, Network
from foldcam.export.networks.traced_graph import context_of, moved, subgraph, trace_module
from foldcam.export.onnx_graphs.device import CPU, Device, full_float32
from foldcam.export.onnx_graphs.embedding_model import (
    BATCH,
    FEATURE_MAP,
    mark_network,
    opset_of,
    strip_origin,
)
from foldcam.export.onnx_graphs.opset import to_opset_17
from foldcam.export.onnx_graphs.rewrites import fold_constants, global_pools, sizes_of
from foldcam.export.onnx_graphs.values import rename
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE
from foldcam.runtime.system.errors import FoldcamError


class TorchNetwork(Network):
    """A torch module in eval mode, exported and cut at its feature map.

    The module is left in eval mode, in float32, on the CPU, with frozen parameters. Its trunk
    may run on a GPU, in a copy that is made when the first image comes; activations are always
    tensors of the processor, where the head runs.

    Args:
        module: image `float32 [N, 3, H, W]` -> embedding `[N, D]`, or a structure (dictionary,
            tuple, dataclass) that holds it.
        image_size: `(height, width)` of the input in pixels.
        layer: name of the feature map, or None to find it.
        output: which of the module's outputs is the embedding, where several could be.
        hold: whether normalisations inside the head are differentiated with their scale
            held constant, see `torch_cut.hold_scales`. Without it for comparison.
        device: where the trunk runs.

    Attributes:
        program: the whole graph, image -> (feature map, embedding).
        trunk_module: image -> feature map, and what else the head needs.
        head_module: those -> the head's end, and the embedding.
    """

    def __init__(
        self,
        module: nn.Module,
        image_size: tuple[int, int],
        layer: str | None = None,
        output: str | None = None,
        *,
        hold: bool = True,
        device: Device = CPU,
    ) -> None:
        self._device = device
        traced = trace_module(module, image_size, layer, output)
        super().__init__(
            CutPoints(
                image_size=image_size,
                candidates=[candidate.layer for candidate in traced.candidates],
                layer=traced.layer.name,
                feature_map_shape=traced.layer.shape,
                embedding_size=int(traced.embedding.meta["val"].shape[1]),
                normalized=traced.normalized,
                head_before_normalization=traced.head_before_normalization,
                pooled=traced.pooled,
                finer=traced.finer,
            )
        )
        feature_map = traced.feature_map
        ends = [traced.head_end, traced.embedding]
        context = context_of(traced.whole, feature_map, ends)
        self.trunk_module = subgraph(traced.whole, [traced.image], [feature_map, *context])
        self.head_module = subgraph(traced.whole, [feature_map, *context], ends)
        if hold:
            hold_scales(self.head_module)
        self.program = traced.program

    def _trunk(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        place, trunk = self._placed
        if place.type == "cpu":
            outputs: tuple[torch.Tensor, ...] = trunk(images)
            return outputs
        with full_float32():
            return tuple(
                each.cpu() if isinstance(each, torch.Tensor) else each
                for each in trunk(images.to(place))
            )

    def release(self) -> None:
        """See `Network.release`: the copy on a GPU."""
        self.__dict__.pop("_placed", None)

    @cached_property
    def _placed(self) -> tuple[torch.device, fx.GraphModule]:
        """Where the trunk runs, and the trunk there."""
        place = self._device.for_torch()
        return place, self.trunk_module if place.type == "cpu" else moved(self.trunk_module, place)

    def _head(
        self, feature_map: torch.Tensor, *context: torch.Tensor | int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ends: tuple[torch.Tensor, torch.Tensor] = self.head_module(feature_map, *context)
        return ends

    def to_onnx(self, opset: int = 18) -> onnx.ModelProto:
        """See `Network.to_onnx`."""
        model = to_onnx(
            self.program, self.image_size, self.feature_map_shape, self.embedding_size, opset
        )
        # So that a bank can be folded into the file later, without torch.
        mark_network(model, self.sha256())
        return model

    def _hashed(self) -> str:
        """Hash of the parameters, the buffers and the operators with their arguments."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.program.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        for node in self.program.graph.nodes:
            digest.update(f"{node.op} {node.target} {node.args} {node.kwargs};".encode())
        return digest.hexdigest()


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
