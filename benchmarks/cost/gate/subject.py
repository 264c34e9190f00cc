"""What the gate times: a folded graph and the plain one inside it.

Graphs are made where torch and onnx are (`standard_subject`, `subject_of`) and timed anywhere: a
device with TensorRT alone gets them as a folder (`read_graphs`).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    import onnx

PLAIN, FOLDED, INT8, FP16 = "plain", "folded", "int8", "fp16"
BASE = "base_"
"""Before the names of the graphs of the commit that is compared with."""
BASE_PLAIN, BASE_FOLDED = BASE + PLAIN, BASE + FOLDED
_ROWS = 300
_SIZE = 224


@dataclass(frozen=True)
class Subject:
    """Graphs on disk."""

    title: str  # what they are; figures are compared only where it is the same
    # `plain` and `folded`, `int8` and `fp16` where both are there, and `base_plain` and
    # `base_folded` where a base is measured along: graphs, or engines of them
    files: dict[str, Path] = field(default_factory=dict)
    # the graphs that engines were built from, by the same names
    graphs: dict[str, Path] = field(default_factory=dict)


def standard_subject(folder: Path) -> Subject:
    """EfficientNet-Lite0 with D = 128 and a bank of 300 random rows, folded by this checkout.

    Time does not depend on what the weights and rows are, so nothing is trained.
    """
    import torch

    from foldcam.benchmarks.cost.gpu.study import random_bank
    from foldcam.benchmarks.evaluation.graphs import plain_graph, save_graph
    from foldcam.export.grafting.fold import FoldOptions, fold
    from foldcam.export.grafting.probes import probed
    from foldcam.export.grafting.versions import tool_versions
    from foldcam.export.models.demo import pooled_features
    from foldcam.export.models.trained_file import ProjectedNetwork
    from foldcam.export.networks.torch_cut import TorchNetwork
    from foldcam.runtime.contract.schema import Origin
    from foldcam.runtime.images.preprocess import Preprocessing

    torch.manual_seed(0)
    recipe = Preprocessing(_SIZE, _SIZE)
    module = ProjectedNetwork(pooled_features(), 1280, 128, recipe).eval()
    network = TorchNetwork(module, (_SIZE, _SIZE))
    exported = network.to_onnx()

    def folding(options: FoldOptions) -> onnx.ModelProto:
        return fold(
            exported,
            random_bank(network, _ROWS, 0),
            preprocessing=recipe,
            layer=network.layer,
            origin=Origin("EfficientNet-Lite0", "", network.sha256(), "random", "all", ""),
            versions=tool_versions(),
            options=options,
        )

    save_graph(plain_graph(exported), folder / _name(PLAIN))
    save_graph(probed(folding, FoldOptions(), exported), folder / _name(FOLDED))
    return read_graphs(folder)


def subject_of(model: Path, folder: Path) -> Subject:
    """A folded model of the user's, beside the network inside it."""
    from foldcam.benchmarks.evaluation.graphs import plain_graph, save_graph
    from foldcam.export.grafting.unfold import network_of
    from foldcam.export.onnx_graphs.message import load_message

    contract = read_contract(model)
    plain = folder / _name(PLAIN)
    save_graph(plain_graph(network_of(load_message(model), contract)), plain)
    return Subject(_title(contract), {PLAIN: plain, FOLDED: model})


def write_graphs(subject: Subject, folder: Path) -> None:
    """Leave the graphs of a subject in a folder, for `read_graphs` on a device."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PLAIN, FOLDED):
        if subject.files[name] != folder / _name(name):
            shutil.copyfile(subject.files[name], folder / _name(name))


def read_graphs(folder: Path) -> Subject:
    """The graphs that `--write-graphs` left in a folder."""
    files = {name: folder / _name(name) for name in (PLAIN, FOLDED)}
    for path in files.values():
        if not path.is_file():
            raise FoldcamError(
                f"There is no {path}: write the graphs where torch is installed, with `foldcam "
                f"bench gate --write-graphs {folder}`."
            )
    return Subject(_title(read_contract(files[FOLDED])), files)


def with_base(subject: Subject, base: Subject) -> Subject:
    """The subject with the graphs of a base commit, which are timed along."""
    graphs = {BASE + name: base.files[name] for name in (PLAIN, FOLDED)}
    return replace(subject, files={**subject.files, **graphs})


def with_precisions(subject: Subject, int8: Path | None, fp16: Path | None) -> Subject:
    """The same with an INT8 and an FP16 model beside it."""
    if int8 is None and fp16 is None:
        return subject
    if int8 is None or fp16 is None:
        raise FoldcamError("INT8 is compared with FP16: give both --int8 and --fp16.")
    for path in (int8, fp16):
        if not path.is_file():
            raise FoldcamError(f"{path} does not exist.")
    return replace(subject, files={**subject.files, INT8: int8, FP16: fp16})


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for the graphs of one run."""
    return tempfile.TemporaryDirectory(prefix="foldcam-gate-")


def _name(graph: str) -> str:
    return f"{graph}.onnx"


def _title(contract: Contract) -> str:
    recipe, bank = contract.preprocessing, contract.bank
    whole = ""
    if contract.frame is not None:
        whole = f", whole frames of {contract.frame[0]} x {contract.frame[1]}"
    return (
        f"{contract.origin.network}, {recipe.width} x {recipe.height}, D = {bank.embedding_size}, "
        f"{bank.rows} rows{whole}"
    )
