"""Probe pictures for a folded model's contract: chosen, and answered by the float model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.export.onnx_graphs.session import plain_session
from foldcam.runtime.bank.live_bank import LiveBank
from foldcam.runtime.canary.answers import answer_of, number
from foldcam.runtime.canary.asking import ask
from foldcam.runtime.canary.verdict import map_agreements
from foldcam.runtime.contract.canary import Canary, ProbeAnswer
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import (
    EMBEDDING,
    IMAGE,
    METADATA_KEY,
    NEIGHBOR,
    QUERY,
    Contract,
)

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


def with_probes(folded: onnx.ModelProto, float_model: onnx.ModelProto | None = None) -> None:
    """Put probe pictures and the float model's answers into a folded model's contract.

    Args:
        folded: the model; its contract is changed.
        float_model: the same model in float32; None takes the model itself, also where it is
            quantized: what that costs was judged when it was calibrated, on photographs.

    Raises:
        FoldcamError: ONNX Runtime cannot run the float model.
    """
    write_canary(folded, canary_of(folded if float_model is None else float_model))


def canary_of(model: onnx.ModelProto) -> Canary | None:
    """Probe pictures and a folded model's answers, by ONNX Runtime on the processor.

    Pictures are taken that the network tells apart, and whose answers stay where the pictures
    hardly change, so that rounding alone changes none.

    Returns:
        None where the model answers nothing finite.

    Raises:
        FoldcamError: ONNX Runtime cannot run it.
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
    return Canary(tuple(each.answer for each in _chosen(found)))


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


def contract_of(model: onnx.ModelProto) -> Contract:
    """The contract of a folded model in memory."""
    return parse_contract(_entry(model).value, "the folded model")


def write_canary(model: onnx.ModelProto, canary: Canary | None) -> None:
    """Put probe pictures and answers into a folded model's contract."""
    _entry(model).value = replace(contract_of(model), canary=canary).to_json()


def _entry(model: onnx.ModelProto) -> onnx.StringStringEntryProto:
    return next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)


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
