"""Finding where an embedding network sums over positions, and what it sums there.

Nearly every embedding depends on the image through one sum over positions,
`s = factor * sum_p S_p + rest`, with a vector `S_p` per position:

    pool        S = A, or A to a power                       average pool, generalised mean
    depthwise   S_p = w_p * A_p                              a depthwise kernel as large as the map
    linear      S_p = W_p A_p                                flatten or a full kernel, then linear
    attention   S_p = weight_p * value_p, heads side by side the last attention's one query that
                                                             the embedding reads (class token)

The gradient with respect to `S_p` is then the same at every position, so that one vector
of grad-weights says what each position adds to a similarity, and nothing of the position is
lost. `rest` is what no position of the map owns: a bias, the class token's own share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from foldcam.export.networks.feature_map import Layout
from foldcam.export.networks.onnx_networks.attention import Attention, read_attention
from foldcam.export.networks.onnx_networks.rewrite import Shape
from foldcam.export.onnx_graphs.session import Array, constant_of
from foldcam.export.onnx_graphs.values import Flow, attributes_of
from foldcam.runtime.contract.schema import SummandKind
from foldcam.runtime.system.errors import FoldcamError

_PASSING = {"Identity", "Dropout", "Cast"}
_FLATTENING = {"Flatten", "Reshape"}


@dataclass(frozen=True)
class Summation:
    """A node that sums over positions.

    Attributes:
        source: the value whose positions are summed: `A`, or an attention's values.
        shape: `(K', h, w)` of the summands.
        factor: `s = factor * sum_p S_p + rest`: one over the positions for a mean.
        layout: how `source` is read as a map.
        in_columns: whether `source` is `[N, K, h * w]` already, perhaps with axes of 1.
        weights: the name of a depthwise or linear sum's constant.
        weights_axes: of a linear sum: where outputs, channels and positions are in it, as the
            permutation that makes `[h * w, K, K']` of them.
        attention: the attention, for that kind.
    """

    kind: SummandKind
    source: str
    total: str
    shape: tuple[int, int, int]
    factor: float
    layout: Layout
    in_columns: bool = False
    weights: str = ""
    weights_axes: tuple[int, ...] = ()
    attention: Attention | None = None

    @property
    def row(self) -> int | None:
        """The query of an attention that the embedding reads."""
        return None if self.attention is None else self.attention.row


class NoSumError(FoldcamError):
    """The embedding does not depend on the image through one sum over positions; a clause says
    why.
    """


def find_summation(
    graph: onnx.GraphProto,
    shapes: Mapping[str, Shape],
    layouts: Mapping[str, Layout],
    head_end: str,
) -> Summation:
    """The last sum over positions before the head's end, if everything passes it.

    For an attention, what else the head reads (the residual of the class token) is not judged
    here.
    """
    search = _Search(graph, shapes, layouts)
    for number in sorted(search.flow.needed_for([head_end]), reverse=True):
        found = search.read(search.flow.nodes[number])
        if found is None:
            continue
        if found.kind != "attention" and search.reaches_image(head_end, found.total):
            raise NoSumError("several ways lead from its positions to the embedding")
        return found
    raise NoSumError("no step sums over the positions of a feature map")


class _Search:
    """Reads single nodes as sums."""

    def __init__(
        self, graph: onnx.GraphProto, shapes: Mapping[str, Shape], layouts: Mapping[str, Layout]
    ) -> None:
        self.flow = Flow(graph)
        self._shapes, self._layouts = shapes, layouts
        # The weights themselves are not read: some networks have hundreds of megabytes of them.
        self._constants = {str(each.name): each for each in graph.initializer}
        self._constant_sizes = {name: tuple(each.dims) for name, each in self._constants.items()}
        # A conversion to another opset writes the axes of a mean as nodes.
        self._written: dict[str, Array] = {}
        for node in graph.node:
            made = constant_of(node) if node.op_type == "Constant" else None
            if made is not None:
                self._written[str(node.output[0])] = made
                self._constant_sizes[str(node.output[0])] = made.shape
        self._readers = {
            "GlobalAveragePool": self._pool,
            "ReduceMean": self._pool,
            "ReduceSum": self._pool,
            "Conv": self._convolution,
            "Gemm": self._flat_product,
            "MatMul": self._product,
        }

    def read(self, node: onnx.NodeProto) -> Summation | None:
        """The node as a sum over positions, None where it is none."""
        reader = self._readers.get(node.op_type)
        return None if reader is None else reader(node)

    def reaches_image(self, end: str, cut: str) -> bool:
        """Whether a value depends on the image's pixels on a way that does not pass `cut`."""
        waiting, known = [end], {cut}
        while waiting:
            name = waiting.pop()
            # The size of a value says nothing of what is in it.
            if name in known or not self.flow.holds_image(name):
                continue
            known.add(name)
            number = self.flow.producer.get(name)
            if number is None:
                return True
            waiting.extend(self.flow.inputs[number])
        return False

    def _pool(self, node: onnx.NodeProto) -> Summation | None:
        source, axes = self._reduced(node)
        sizes = self._sizes(source)
        if sizes is None:
            return None
        layout = self._layouts.get(source)
        wanted = None if layout is None else _position_axes(layout)
        in_columns = layout is None
        if axes is not None and in_columns:
            layout = self._columns(sizes, axes)
            wanted = axes
        if layout is None or axes != wanted or layout.tokens_first or layout.skipped:
            return None
        _, height, width = layout.shape
        factor = 1.0 if node.op_type == "ReduceSum" else 1.0 / (height * width)
        total = str(node.output[0])
        return Summation("pool", source, total, layout.shape, factor, layout, in_columns)

    def _convolution(self, node: onnx.NodeProto) -> Summation | None:
        layout = self._layouts.get(str(node.input[0]))
        kernel = self._constant_sizes.get(str(node.input[1]), ())
        if layout is None or layout.kind != "nchw" or len(kernel) != 4:
            return None
        channels, height, width = layout.shape
        attributes = attributes_of(node)
        padded = any(attributes.get("pads", [0])) or attributes.get("auto_pad", b"NOTSET") not in (
            b"NOTSET",
            b"VALID",
        )
        if kernel[2:] != (height, width) or padded or height * width == 1:
            return None
        out, groups = kernel[0], int(attributes.get("group", 1))
        shape, total = (out, height, width), str(node.output[0])
        source, weights = str(node.input[0]), str(node.input[1])
        if groups == channels:
            return Summation("depthwise", source, total, shape, 1.0, layout, weights=weights)
        if groups == 1:
            return Summation("linear", source, total, shape, 1.0, layout, False, weights, (2, 1, 0))
        return None

    def _flat_product(self, node: onnx.NodeProto) -> Summation | None:
        """A linear layer behind a flattened map."""
        weights = self._constant_sizes.get(str(node.input[1]), ())
        attributes = attributes_of(node)
        if len(weights) != 2:
            return None
        if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0:
            return None
        source = self._unflattened(str(node.input[0]))
        layout = None if source is None else self._layouts.get(source)
        if source is None or layout is None or layout.tokens_first or layout.skipped:
            return None
        channels, height, width = layout.shape
        outputs_first = bool(attributes.get("transB", 0))
        inputs, outputs = weights[::-1] if outputs_first else weights
        if inputs != channels * height * width or height * width == 1:
            return None
        # Axes of channels and positions among the inputs, in the order of the flattened map.
        order = (1, 0) if layout.kind == "nchw" else (0, 1)
        axes = (*(axis + outputs_first for axis in order), 0 if outputs_first else 2)
        return Summation(
            "linear",
            source,
            str(node.output[0]),
            (outputs, height, width),
            1.0,
            layout,
            False,
            str(node.input[1]),
            axes,
        )

    def _product(self, node: onnx.NodeProto) -> Summation | None:
        if str(node.input[1]) in self._constant_sizes:
            return self._flat_product(node)
        attention = read_attention(node, self.flow, self._shapes, self._constant_sizes)
        if attention is None:
            return None
        grid = self._tokens(attention.tokens)
        if grid is None:
            return None
        _, height, width = grid.shape
        channels = attention.heads * attention.head_size
        layout = Layout("tokens", (channels, height, width), attention.tokens - height * width)
        return Summation(
            "attention",
            attention.values,
            str(node.output[0]),
            layout.shape,
            1.0,
            layout,
            attention=attention,
        )

    def _unflattened(self, name: str) -> str | None:
        """What a value was before it was flattened to one row per image."""
        flattened = False
        while (number := self.flow.producer.get(name)) is not None:
            node = self.flow.nodes[number]
            if node.op_type not in _PASSING | _FLATTENING:
                break
            before = self._sizes(str(node.input[0]))
            if node.op_type in _FLATTENING and before is not None and len(before) > 2:
                flattened = True
            name = str(node.input[0])
            if flattened:
                return name
        return None

    def _reduced(self, node: onnx.NodeProto) -> tuple[str, tuple[int, ...] | None]:
        """What a pool pools, and over which axes; one after the other as in `x.mean(3).mean(2)`."""
        source = str(node.input[0])
        sizes = self._sizes(source)
        axes = None if sizes is None else self._axes(node, len(sizes))
        number = self.flow.producer.get(source)
        if axes is None or number is None:
            return source, axes
        inner = self.flow.nodes[number]
        if inner.op_type != node.op_type or node.op_type == "GlobalAveragePool":
            return source, axes
        source, before = self._reduced(inner)
        rank = len(self._sizes(source) or ())
        if before is None:
            return str(node.input[0]), axes
        # Where an axis was before others were taken away.
        kept = [axis for axis in range(rank) if axis not in before]
        if attributes_of(inner).get("keepdims", 1):
            kept = list(range(rank))
        return source, tuple(sorted({*before, *(kept[axis] for axis in axes)}))

    def _axes(self, node: onnx.NodeProto, rank: int) -> tuple[int, ...] | None:
        if node.op_type == "GlobalAveragePool":
            return tuple(range(2, rank))
        axes = attributes_of(node).get("axes")
        if axes is None and len(node.input) > 1 and node.input[1]:
            axes = self._integers(str(node.input[1]))
        return None if axes is None else tuple(sorted(int(axis) % rank for axis in axes))

    def _columns(self, sizes: tuple[int, ...], axes: tuple[int, ...]) -> Layout | None:
        """Transposed tokens `[N, K, h * w]`, perhaps with axes of 1, reduced over the last."""
        if len(sizes) < 3 or not all(axes):
            return None
        longer = [axis for axis, size in enumerate(sizes) if axis and size > 1]
        if len(longer) != 2 or longer[0] in axes or longer[1] not in axes:
            return None
        grid = self._tokens(sizes[longer[1]])
        if grid is None or grid.skipped:
            return None
        return Layout("tokens", (sizes[longer[0]], *grid.shape[1:]))

    def _tokens(self, count: int) -> Layout | None:
        """How that many tokens lie on the image, by the last value that has as many."""
        for layout in reversed(list(self._layouts.values())):
            _, height, width = layout.shape
            if layout.skipped + height * width == count and height * width > 1:
                return layout
        return None

    def _sizes(self, name: str) -> tuple[int, ...] | None:
        """Sizes with the batch first, None where it is not."""
        shape = self._shapes.get(name)
        if shape is None or shape.per_image is None:
            return None
        return (shape.unit, *shape.per_image)

    def _integers(self, name: str) -> list[int] | None:
        """The numbers of a small constant, None where it is none."""
        tensor = self._constants.get(name)
        array = self._written.get(name) if tensor is None else numpy_helper.to_array(tensor)
        return None if array is None else [int(value) for value in array.flat]


def _position_axes(layout: Layout) -> tuple[int, ...]:
    return {"nchw": (2, 3), "nhwc": (1, 2), "tokens": (1,)}[layout.kind]
