"""Engines that are built, and shown the probe pictures before they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from foldcam.runtime.backends.cuda.memory import CudaMemory
from foldcam.runtime.backends.tensorrt.backend import CheckedPlan, TensorRTBackend
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.engine.builder import Built, Trial, build_engine
from foldcam.runtime.engine.canary.check import (
    HOW_TO_GET_PROBES,
    WrongAnswersError,
    accepted_wrong_of,
    checked,
)
from foldcam.runtime.engine.device import DeviceFacts, find_gpu, find_host
from foldcam.runtime.engine.flavours import Flavour
from foldcam.runtime.engine.log import owned_logger
from foldcam.runtime.engine.manifest import Target
from foldcam.runtime.engine.options import BuildOptions
from foldcam.runtime.engine.progress import BuildLine
from foldcam.runtime.system.errors import FoldcamError

# Opens a plan that has just been built.
RunPlan = Callable[[CheckedPlan, Flavour], TensorRTBackend]


def run_plan(plan: CheckedPlan, flavour: Flavour) -> TensorRTBackend:
    """A plan in the TensorRT that has built it."""
    return TensorRTBackend(plan, flavour, owned_logger(flavour), CudaMemory())


def build_tried_engine(
    model: Path,
    out: Path,
    options: BuildOptions,
    flavour: Flavour,
    *,
    facts: DeviceFacts | None = None,
    line: BuildLine | None = None,
    accept_wrong: bool = False,
    run: RunPlan = run_plan,
) -> Built:
    """As `runtime.engine.builder.build_engine`; an engine that answers wrongly is not written.

    Where the model has no probe pictures, or the engine cannot run on this machine, it is written
    all the same, and a note says so.
    """
    facts = facts or DeviceFacts(find_gpu(), find_host(), {flavour.name: flavour.version})

    def trial(plan: bytes, contract: Contract, target: Target) -> Trial:
        if contract.canary is None:
            return Trial(
                "the model has no probe pictures, by which wrong answers of the engine would be "
                f"found: {HOW_TO_GET_PROBES.format(model=model)}"
            )
        if facts.gpu is None or not target.serves(facts.gpu.compute_capability):
            return Trial(
                "no probe pictures were shown to the engine, which cannot run on this machine: "
                "that is done where it is first opened"
            )
        try:
            with closing(run(CheckedPlan(out, plan, contract), flavour)) as backend:
                checked(backend, out, hashlib.sha256(plan).hexdigest(), accept_wrong=accept_wrong)
                return Trial("", accepted_wrong_of(backend))
        except WrongAnswersError:
            raise
        except FoldcamError as error:
            return Trial(f"the engine could not be shown the probe pictures: {error}")

    return build_engine(model, out, options, flavour, facts=facts, line=line, trial=trial)
