"""Attention of transformers, as exporters write it out, found by its structure.

One is a softmax between two products of computed values, whatever stands between them for the
scale, the mask or guards, in a graph that normalises over channels: that is where TensorRT versions
are known to build engines that answer wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator

from foldcam.export.onnx_graphs.values import PREPARED
from foldcam.export.onnx_graphs.writing import PREFIX
from foldcam.export.verification.check.matchers import Details
from foldcam.export.verification.check.targets import Target
from foldcam.export.verification.check.view import ModelView, Node
from foldcam.runtime.system.text import quantity

_PRODUCTS = ("MatMul", "Einsum")
_MOVES = ("Cast", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_ROUNDS = ("QuantizeLinear", "DequantizeLinear")
_BEFORE = (*_MOVES, *_ROUNDS, "Add", "Clip", "Div", "Max", "Min", "Mul", "Sub", "Tanh", "Where")
_BEHIND = (*_MOVES, *_ROUNDS, "Dropout", "Mul", "Where")
_NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")
_MEANS = ("ReduceMean", "GlobalAveragePool")
_SQUARES = ("Pow", "Mul")


def attention(view: ModelView, _: Target) -> Iterator[tuple[Node, Details]]:
    """Match the first attention of a graph that has normalisations: `{count}` of all."""
    found = _attentions(view)
    if found and (any(view.of(*_NORMALIZATIONS)) or any(_centred(view))):
        yield found[0], {"count": quantity(len(found), "attention")}


def half_attention(view: ModelView, target: Target) -> Iterator[tuple[Node, Details]]:
    """Match a transformer with attention scores or variances in float16: `{what}`."""
    for node, _ in attention(view, target):
        scores = [each for each in _attentions(view) if _is_half(view, each)]
        squares = [each for each in _centred(view) if _is_half(view, each)]
        counted = ((scores, "attention"), (squares, "normalisation"))
        whats = [quantity(len(found), noun) for found, noun in counted if found]
        if whats:
            yield (scores or squares or [node])[0], {"what": " and ".join(whats)}


def single_attention(view: ModelView, target: Target) -> Iterator[tuple[Node, Details]]:
    """Match a transformer whose first attention is float32 throughout: `{count}`."""
    for node, details in attention(view, target):
        if not any(_is_half(view, each) for each in view.of("MatMul", "Gemm", "Conv")):
            yield node, details


def tiled_if(view: ModelView, _: Target) -> Iterator[tuple[Node, Details]]:
    """Match an If whose result a Tile repeats or counts by, as torch.tile is exported."""
    for node in view.of("Tile"):
        for name in node.inputs:
            made = next(_makers(view, name, ("If",), _MOVES), None)
            if made is not None:
                yield made, {}
                break


def _attentions(view: ModelView) -> list[Node]:
    # Not those that foldcam adds, such as one row of an attention computed a second time.
    own = (n for n in view.of("Attention", "Softmax") if not n.name.startswith((PREFIX, PREPARED)))
    return [node for node in own if node.op == "Attention" or _is_between(view, node)]


def _is_between(view: ModelView, softmax: Node) -> bool:
    """Whether a softmax stands between two products of computed values."""
    before = _makers(view, softmax.input(0), _PRODUCTS, _BEFORE)
    return any(_computes(view, each) for each in before) and any(
        _computes(view, each) for each in _readers(view, softmax)
    )


def _centred(view: ModelView) -> list[Node]:
    """Squares of values less their mean, in normalisations that are written out."""
    found = []
    for node in view.of("Sub"):
        mean = view.producers.get(node.input(1))
        if mean is not None and mean.op in _MEANS and mean.input(0) == node.input(0):
            readers = view.consumers.get(node.outputs[0], [])
            found += [each for each in readers if each.op in _SQUARES and _is_square(view, each)]
    return found


def _is_square(view: ModelView, node: Node) -> bool:
    if node.op == "Mul" and node.input(0) != node.input(1):
        return False
    return any(each.op in _MEANS for each in view.consumers.get(node.outputs[0], []))


def _computes(view: ModelView, product: Node) -> bool:
    """Whether no operand of a product is a constant, quantized or not."""
    return not any(_is_weight(view, name) for name in product.inputs)


def _is_weight(view: ModelView, name: str) -> bool:
    node = view.producers.get(name)
    while node is not None and node.op in (*_MOVES, *_ROUNDS) and name not in view.constants:
        name = node.input(0)
        node = view.producers.get(name)
    return name in view.constants


def _makers(
    view: ModelView, name: str, wanted: tuple[str, ...], through: tuple[str, ...]
) -> Iterator[Node]:
    """The nodes of these operators from which a value comes through others."""
    waiting, looked_at = [name], set()
    while waiting:
        name = waiting.pop()
        node = view.producers.get(name)
        if node is None or name in looked_at:
            continue
        looked_at.add(name)
        if node.op in wanted:
            yield node
        elif node.op in through:
            waiting += node.inputs


def _readers(view: ModelView, softmax: Node) -> Iterator[Node]:
    """The products that read a softmax's weights."""
    waiting, looked_at = list(softmax.outputs), set()
    while waiting:
        name = waiting.pop()
        if name in looked_at:
            continue
        looked_at.add(name)
        for node in view.consumers.get(name, []):
            if node.op in _PRODUCTS:
                yield node
            elif node.op in _BEHIND:
                waiting += node.outputs


def _is_half(view: ModelView, node: Node) -> bool:
    return "float16" in (view.dtype(node.input(0)), view.dtype(node.outputs[0]))
