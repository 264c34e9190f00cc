"""Engines of the gate's graphs: the folded one, and the network alone beside it.

Both are built with the same options and run by the same code, down to the copies and the CUDA
graph, so that what differs is what folding adds. A plain network has no contract of its own: it
borrows the folded model's, of which it keeps the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foldcam.benchmarks.cost.gate.machine import FLAVOURS
from foldcam.benchmarks.cost.gate.subject import BASE_PLAIN, FOLDED, PLAIN, Subject
from foldcam.runtime.backends.choice import is_engine
from foldcam.runtime.backends.cuda.memory import CudaMemory
from foldcam.runtime.backends.tensorrt.backend import CheckedPlan, TensorRTBackend
from foldcam.runtime.backends.tensorrt.building import build_tried_engine
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import EMBEDDING, Contract
from foldcam.runtime.engine.device import find_gpu
from foldcam.runtime.engine.flavours import Flavour, find_flavour
from foldcam.runtime.engine.log import owned_logger
from foldcam.runtime.engine.manifest import read_manifest
from foldcam.runtime.engine.network import configure, parse_network
from foldcam.runtime.engine.options import BuildOptions
from foldcam.runtime.engine.precision import hold_to, types_of
from foldcam.runtime.engine.progress import BuildLine
from foldcam.runtime.system.errors import FoldcamError

_OPTIONS = BuildOptions()


def with_engines(subject: Subject, device: str, folder: Path) -> Subject:
    """The subject with an engine in the place of each graph; as it is on other devices.

    Args:
        device: `tensorrt` or `rtx`, else nothing is built.
        folder: where the engines go; several builds may share it.
    """
    if device not in FLAVOURS:
        return subject
    flavour = find_flavour(FLAVOURS[device])
    files = dict(subject.files)
    for name, path in subject.files.items():
        if is_engine(path):
            continue
        # Each in a folder of its own: what lies beside an engine is taken for its model.
        engine = folder / name / f"{path.stem}.engine"
        engine.parent.mkdir(exist_ok=True)
        if name in (PLAIN, BASE_PLAIN):
            build_plain(path, read_contract(_folded_beside(name, subject.files)), engine, flavour)
        else:
            build_tried_engine(path, engine, _OPTIONS, flavour, line=BuildLine())
        files[name] = engine
    return replace(subject, files=files, graphs=dict(subject.files))


def build_plain(graph: Path, contract: Contract, engine: Path, flavour: Flavour) -> None:
    """Build the network alone, as `build_tried_engine` builds the folded model.

    Args:
        engine: where the plan goes; it has no manifest, and is opened by `open_plain` alone.
    """
    logger = owned_logger(flavour)
    parsed = parse_network(graph.read_bytes(), str(graph), flavour, logger)
    types = types_of(parsed.network, flavour, contract.precision, str(graph))
    config, _ = configure(parsed, _OPTIONS, types, flavour, find_gpu(), {})
    hold_to(types, parsed.network, config, parsed.builder, flavour)
    mark = logger.messages.mark()
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise FoldcamError(
            f"{graph} cannot be compiled by {flavour.title}: {logger.messages.reason(mark)}."
        )
    engine.write_bytes(bytes(plan))


def open_plain(engine: Path, graph: Path, folded: Path, device: str) -> TensorRTBackend:
    """Open an engine that `build_plain` wrote in this run.

    Args:
        folded: the engine of the folded model; its manifest has the contract.
        device: `tensorrt` or `rtx`.
    """
    flavour = find_flavour(FLAVOURS[device])
    contract = read_manifest(folded).contract(str(folded))
    # The network inside a model that takes bytes takes floats, or bytes, by how it was folded.
    image: Any = read_header(graph).inputs[0].dtype
    contract = replace(contract, input_type=image, bank_input=None, query=False)
    plan = CheckedPlan(engine, engine.read_bytes(), contract, outputs=(EMBEDDING,))
    return TensorRTBackend(plan, flavour, owned_logger(flavour), CudaMemory())


def _folded_beside(name: str, files: Mapping[str, Path]) -> Path:
    return files[name.replace(PLAIN, FOLDED)]
