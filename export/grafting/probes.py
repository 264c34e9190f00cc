"""Probe pictures for a folded model's contract: chosen, and answered by the float model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.in_graph import contract_of, write_contract
from foldcam.export.onnx_graphs.message import load_message
from foldcam.export.onnx_graphs.precision import is_float16
from foldcam.export.onnx_graphs.session import plain_session
from foldcam.runtime.contract.bank.live_bank import LiveBank
from foldcam.runtime.contract.canary import Canary, ProbeAnswer, ProbePrecision
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import (
    EMBEDDING,
    IMAGE,
    NEIGHBOR,
    QUERY,
    Contract,
)
from foldcam.runtime.engine.canary.asking import ask
from foldcam.runtime.engine.canary.check import probe
from foldcam.runtime.engine.canary.verdict import answer_of, judge, map_agreements, number
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path

Array = npt.NDArray[Any]

_CANDIDATES, _PICTURES = 8, 3
# Grey levels: rounding in float16 or int8 changes an answer hardly more.
_NOISE = 2
_STABLE = 0.98


@dataclass(frozen=True)
class _Candidate:
    answer: ProbeAnswer
    direction: npt.NDArray[np.float64]
    stability: float


def probed(
    make: Callable[[FoldOptions], onnx.ModelProto],
    options: FoldOptions,
    network: onnx.ModelProto,
    before: Canary | None = None,
) -> onnx.ModelProto:
    """A folded model whose contract holds probe pictures and the float model's answers.

    Args:
        make: folds the network.
        options: how.
        network: the embedding network, as `fold` takes it.
        before: of the folded model that the network was taken from, if any. Of a network in
            float16 the float model's embeddings are in it alone.
    """
    folded = make(options)
    if is_float16(network) and before is not None:
        write_canary(folded, _renewed(folded, before))
        return folded
    if options.precision == "fp32" or is_float16(network):
        write_canary(folded, canary_of(folded))
        return folded
    try:
        float_model = make(replace(options, precision="fp32"))
    except FoldcamError:
        # In float32 it is more than one ONNX file can hold: its own answers are all there are.
        float_model = folded
    canary = canary_of(float_model)
    write_canary(folded, None if canary is None else replace(canary, precision="fp16"))
    _check(folded, "The network")
    return folded


def _renewed(folded: onnx.ModelProto, before: Canary) -> Canary:
    """The float model's embeddings, with what another bank says of them in the model at hand."""
    backend = _Reference(folded)
    found = ask(backend, [answer.seed for answer in before.answers])
    now = [answer_of(old.seed, outputs) for old, outputs in zip(before.answers, found, strict=True)]
    same = all(_shape(new) == _shape(old) for new, old in zip(now, before.answers, strict=True))
    if same and judge(before, found, scores=backend.contract.scores is not None).right:
        return before
    kept = [
        replace(new, embedding=old.embedding, length=old.length)
        for new, old in zip(now, before.answers, strict=True)
    ]
    return replace(before, answers=tuple(kept))


def _shape(answer: ProbeAnswer) -> tuple[set[str], dict[str, int]]:
    return set(answer.numbers), {name: len(text) for name, text in answer.maps.items()}


def canary_of(model: onnx.ModelProto) -> Canary | None:
    """Probe pictures and a folded model's answers, by ONNX Runtime on the processor.

    Pictures are taken that the network tells apart, and whose answers stay where the pictures
    hardly change, so that rounding alone changes none. What quantizing a model costs was judged
    when it was calibrated, on photographs: the answers are the quantized model's own.

    Returns:
        None where the model answers nothing finite.
    """
    seeds = range(_CANDIDATES)
    backend = _Reference(model)
    plain, noisy = ask(backend, seeds), ask(backend, seeds, _NOISE)
    found = [
        _candidate(seed, *pair)
        for seed, *pair in zip(seeds, plain, noisy, strict=True)
        if all(np.isfinite(output).all() for output in pair[0].values())
    ]
    if not found:
        return None
    precision: ProbePrecision = backend.contract.precision
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        precision = "int8"
    return Canary(precision, tuple(each.answer for each in _chosen(found)))


def add_probes(path: Path, out: Path, reference: Path | None = None) -> Canary:
    """Put probe pictures into a folded model's file; its graph stays as it is.

    Args:
        reference: the float32 model from which a float16 one was exported.
    """
    contract, model = read_contract(path), load_message(path)
    if (contract.precision == "fp16") != (reference is not None):
        raise FoldcamError(
            f"{path} is in float16: name the float32 model that it was exported beside with "
            "--reference."
            if reference is None
            else f"{path} is not in float16: leave --reference out."
        )
    source = model
    if reference is not None:
        known, source = read_contract(reference), load_message(reference)
        if known.precision != "fp32" or known.origin != contract.origin:
            raise FoldcamError(
                f"{reference} is not the float32 model of {path}'s network and bank."
            )
    canary = canary_of(source)
    if canary is None:
        raise FoldcamError(f"{path} answers no probe picture with finite values: export it again.")
    if reference is not None:
        canary = replace(canary, precision="fp16")
    write_canary(model, canary)
    _check(model, str(path))
    with atomic_path(out) as temporary:
        onnx.save(model, temporary)
    return canary


def _check(model: onnx.ModelProto, where: str) -> None:
    """Refuse a float16 model that does not answer as the float32 one whose answers it holds."""
    verdict = probe(_Reference(model))
    if verdict is not None and not verdict.right:
        raise FoldcamError(
            f"{where} in float16 answers {verdict.pictures} probe pictures wrongly: "
            f"{'; '.join(verdict.failures)}: use float32 (--precision fp32)."
        )


class _Reference:
    """A folded model in memory, computed as it is written, always in the same order of sums."""

    name, device = "onnxruntime", "cpu"

    def __init__(self, model: onnx.ModelProto) -> None:
        self.contract = contract_of(model)
        self._outputs = [value.name for value in model.graph.output]
        self._bank: dict[str, Array] = {}
        self._session = plain_session(model)

    def use_bank(self, bank: LiveBank, contract: Contract) -> None:  # noqa: ARG002
        self._bank = bank.inputs

    def run(self, images: Array) -> dict[str, Array]:
        inputs = {IMAGE: images, **self._bank}
        if self.contract.query:
            inputs[QUERY] = np.zeros((len(images), self.contract.bank.embedding_size), np.float32)
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))


def write_canary(model: onnx.ModelProto, canary: Canary | None) -> None:
    """Put probe pictures and answers into a folded model's contract."""
    write_contract(model, replace(contract_of(model), canary=canary))


def _candidate(seed: int, plain: dict[str, Array], noisy: dict[str, Array]) -> _Candidate:
    answer = answer_of(seed, plain)
    stability = min((value for _, value in map_agreements(answer, noisy)), default=0.0)
    if number(plain[NEIGHBOR]) != number(noisy[NEIGHBOR]):
        stability = -1.0
    embedding = plain[EMBEDDING][0].astype(np.float64)
    length = max(float(np.linalg.norm(embedding)), 1e-30)
    return _Candidate(answer, embedding / length, stability)


def _chosen(found: Sequence[_Candidate]) -> list[_Candidate]:
    """The most stable one, and from those that are stable each time the most different one."""
    by_stability = sorted(found, key=lambda each: -each.stability)
    left = [each for each in by_stability if each.stability >= _STABLE]
    left = left if len(left) >= _PICTURES else by_stability[:_PICTURES]
    chosen = [left.pop(0)]
    while left and len(chosen) < _PICTURES:
        nearest = [max(each.direction @ other.direction for other in chosen) for each in left]
        chosen.append(left.pop(int(np.argmin(nearest))))
    return chosen
