"""What the gate times: a folded graph and the plain one inside it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from foldcam.benchmarks.graphs import plain_graph, save_graph
from foldcam.export.grafting.unfold import network_of
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.errors import FoldcamError

_ROWS = 300
_SIZE = 224


@dataclass(frozen=True)
class Subject:
    """Graphs on disk.

    Attributes:
        title: what they are; figures are compared only where it is the same.
        files: `plain`, `folded`, and `int8` and `fp16` where both are there.
    """

    title: str
    files: dict[str, Path] = field(default_factory=dict)


def standard_subject(folder: Path) -> Subject:
    """EfficientNet-Lite0 with D = 128 and a bank of 300 random rows, folded by this checkout.

    Time does not depend on what the weights and rows are, so nothing is trained.

    Raises:
        FoldcamError: the packages that carry the network are not installed.
    """
    import torch

    from foldcam.benchmarks.gpu.study import random_bank
    from foldcam.export.grafting.fold import FoldOptions, fold
    from foldcam.export.models.demo import pooled_features
    from foldcam.export.models.projected import ProjectedNetwork
    from foldcam.export.networks.torch_cut import TorchNetwork
    from foldcam.export.versions import tool_versions
    from foldcam.runtime.contract.schema import Origin
    from foldcam.runtime.images.preprocess import Preprocessing

    torch.manual_seed(0)
    recipe = Preprocessing(_SIZE, _SIZE)
    module = ProjectedNetwork(pooled_features(), 1280, 128, recipe).eval()
    network = TorchNetwork(module, (_SIZE, _SIZE))
    exported = network.to_onnx()
    folded = fold(
        exported,
        random_bank(network, _ROWS, 0),
        preprocessing=recipe,
        layer=network.layer,
        origin=Origin("gate", "", network.sha256(), "random", "all", ""),
        versions=tool_versions(),
        options=FoldOptions(),
    )
    files = {"plain": folder / "plain.onnx", "folded": folder / "folded.onnx"}
    save_graph(plain_graph(exported), files["plain"])
    save_graph(folded, files["folded"])
    return Subject(f"EfficientNet-Lite0, {_SIZE} x {_SIZE}, D = 128, {_ROWS} rows", files)


def subject_of(model: Path, folder: Path) -> Subject:
    """A folded model of the user's, beside the network inside it.

    Raises:
        FoldcamError: it is no folded model.
    """
    contract = read_contract(model)
    recipe, bank = contract.preprocessing, contract.bank
    plain = folder / "plain.onnx"
    save_graph(plain_graph(network_of(load_message(model), contract)), plain)
    title = (
        f"{contract.origin.network}, {recipe.width} x {recipe.height}, D = {bank.embedding_size}, "
        f"{bank.rows} rows"
    )
    if contract.frame is not None:
        title += f", whole frames of {contract.frame[0]} x {contract.frame[1]}"
    return Subject(title, {"plain": plain, "folded": model})


def with_precisions(subject: Subject, int8: Path | None, fp16: Path | None) -> Subject:
    """The same with an INT8 and an FP16 model beside it.

    Raises:
        FoldcamError: one is given without the other, or a file is missing.
    """
    if int8 is None and fp16 is None:
        return subject
    if int8 is None or fp16 is None:
        raise FoldcamError("INT8 is compared with FP16: give both --int8 and --fp16.")
    for path in (int8, fp16):
        if not path.is_file():
            raise FoldcamError(f"{path} does not exist.")
    return Subject(subject.title, {**subject.files, "int8": int8, "fp16": fp16})


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for the graphs of one run."""
    return tempfile.TemporaryDirectory(prefix="foldcam-gate-")
