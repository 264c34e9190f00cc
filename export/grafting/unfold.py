"""Unfold: folded ONNX -> the embedding network and the bank it was folded from. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnx import TensorProto, helper

from foldcam.export.banks.bank import Bank, BankSource
from foldcam.export.grafting.frame import without_frame
from foldcam.export.grafting.in_graph import bank_of
from foldcam.export.onnx_graphs.embedding_model import (
    BATCH,
    FEATURE_MAP,
    mark_network,
    strip_origin,
)
from foldcam.export.onnx_graphs.values import refill
from foldcam.export.onnx_graphs.writing import PREFIX
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE, Contract
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True)
class Unfolded:
    """What a folded model was made of.

    Attributes:
        network: `image float32 [N,3,H,W]` -> `feature_map [N,K,h,w]`, `embedding [N,D]`.
        bank: with its source; without the hashes of its images, which a folded model
            does not hold.
    """

    network: onnx.ModelProto
    bank: Bank


def unfold(model: onnx.ModelProto, contract: Contract) -> Unfolded:
    """Take a folded model apart.

    Everything that `fold` grafts carries a name that begins with `foldcam.`; what is left
    are the network's own nodes, in their order, so that folding the same bank again
    gives the same bytes.
    """
    if contract.scores is not None:
        raise FoldcamError(
            "The model is a classifier, whose bank is its own last layer and cannot be taken out."
        )
    bank = replace(bank_of(model, contract), source=BankSource.of(contract))
    return Unfolded(network_of(model, contract), bank)


def network_of(model: onnx.ModelProto, contract: Contract) -> onnx.ModelProto:
    """The embedding network inside a folded model; see `unfold`.

    A network whose uint8 images are normalised by grafted nodes alone takes float images
    again. Where the network's own nodes took over a part of that, it keeps its uint8
    input `[N,H,W,3]`, into which `fold` can fold as well.
    """
    network = onnx.ModelProto()
    network.CopyFrom(model)
    graph = network.graph
    if contract.frame is not None:
        without_frame(graph, contract.preprocessing)
    if contract.input_type == "uint8":
        _restore_input(graph, contract)
    kept = _read_by_network(graph)
    _keep(graph.node, lambda node: not _grafted(node.name) or bool(kept & {*node.output}))
    _keep(graph.initializer, lambda tensor: not _grafted(tensor.name) or tensor.name in kept)
    _keep(graph.value_info, lambda value: not _grafted(value.name) or value.name in kept)
    refill(graph.input, [value for value in graph.input if value.name == IMAGE])
    embedding = onnx.ValueInfoProto()
    embedding.CopyFrom(next(value for value in graph.output if value.name == EMBEDDING))
    del graph.output[:]
    shape: list[str | int] = [BATCH, *contract.feature_map]
    graph.output.append(helper.make_tensor_value_info(FEATURE_MAP, TensorProto.FLOAT, shape))
    graph.output.append(embedding)
    # The folded model's metadata goes with the rest.
    strip_origin(network)
    explained = contract.explanation
    mark_network(
        network,
        contract.origin.network_sha256,
        "none" if explained is None else explained.summands,
        0 if explained is None else explained.query,
    )
    try:
        onnx.checker.check_model(network, full_check=True)
    except Exception as error:
        # The checker and the shape inference behind it raise types of their own.
        raise FoldcamError(
            "The embedding network cannot be taken out of the folded model: its graph was "
            "changed after folding, so export it again."
        ) from error
    return network


def _grafted(name: str) -> bool:
    return name.startswith(PREFIX)


def _restore_input(graph: onnx.GraphProto, contract: Contract) -> None:
    """Float images, where one grafted value is all that the network reads of the graft."""
    own = [node for node in graph.node if not _grafted(node.name)]
    read = {name for node in own for name in node.input if _grafted(name)}
    if len(read) != 1 or read & {tensor.name for tensor in graph.initializer}:
        return
    (normalized,) = read
    for node in own:
        for position, name in enumerate(node.input):
            if name == normalized:
                node.input[position] = IMAGE
    recipe = contract.preprocessing
    image = next(value for value in graph.input if value.name == IMAGE)
    shape: list[str | int] = [BATCH, 3, recipe.height, recipe.width]
    image.CopyFrom(helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, shape))


def _read_by_network(graph: onnx.GraphProto) -> set[str]:
    """Names of grafted values that the network's own nodes depend on."""
    producers = {name: node for node in graph.node for name in node.output}
    waiting = [
        name
        for node in graph.node
        if not _grafted(node.name)
        for name in node.input
        if _grafted(name)
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or not _grafted(name):
            continue
        found.add(name)
        if name in producers:
            waiting.extend(producers[name].input)
    return found


def _keep(items: Any, wanted: Callable[[Any], bool]) -> None:
    """Leave only the wanted items of a repeated field, in their order."""
    refill(items, [item for item in items if wanted(item)])
