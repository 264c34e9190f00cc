"""From the name of an engine to a running one, by way of preflight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foldcam.runtime.backends.cuda.memory import CudaMemory
from foldcam.runtime.backends.tensorrt.backend import CheckedPlan, TensorRTBackend
from foldcam.runtime.engine.canary.check import checked
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.runtime.engine.progress import BuildLine


def open_engine(
    path: Path, *, model: Path | None = None, cuda_graph: bool = True, accept_wrong: bool = False
) -> TensorRTBackend:
    """Load an engine that the user named.

    Args:
        model: the folded `.onnx` that it should be of; None takes the one that it was
            built from, if that lies beside it.
    """
    from foldcam.runtime.engine.device import device_facts
    from foldcam.runtime.engine.flavours import find_flavour, wanted_for
    from foldcam.runtime.engine.log import owned_logger
    from foldcam.runtime.engine.preflight import load_engine

    checked_files = load_engine(path, device_facts(), model)
    contract = checked_files.manifest.contract(str(path))
    flavour = find_flavour(wanted_for(checked_files.manifest.flavour))
    plan = CheckedPlan(path, checked_files.plan, contract)
    backend = TensorRTBackend(plan, flavour, owned_logger(flavour), CudaMemory(), cuda_graph)
    return checked(backend, path, checked_files.manifest.plan.sha256, accept_wrong=accept_wrong)


def engine_for(
    model: Path, build: bool, line: BuildLine | None = None, *, accept_wrong: bool = False
) -> Path:
    """The engine of a folded model, where `runtime build` puts it.

    Args:
        build: whether one may be built where none fits, which takes minutes.
    """
    from foldcam.runtime.backends.tensorrt.building import build_tried_engine
    from foldcam.runtime.contract.onnx_file import read_contract
    from foldcam.runtime.engine.device import device_facts
    from foldcam.runtime.engine.flavours import find_flavour
    from foldcam.runtime.engine.offer import decide, make_offer

    # That the model is none can be said before TensorRT is loaded, which takes seconds.
    read_contract(model)
    flavour = find_flavour("auto")
    facts = device_facts()
    if facts.gpu is None:
        raise FoldcamError(
            f"{model} cannot run in {flavour.title}: the driver finds no NVIDIA GPU here: see "
            "`runtime doctor`."
        )
    offer = make_offer(model, facts)
    if decide(model, offer, build, flavour.wanted):
        build_tried_engine(
            model, offer.engine, offer.options, flavour,
            facts=facts, line=line, accept_wrong=accept_wrong,
        )  # fmt: skip
    return offer.engine
