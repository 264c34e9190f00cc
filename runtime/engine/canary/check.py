"""Before a model or an engine is used: does it answer rightly on this machine?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol, TypeVar

from foldcam.runtime.engine.canary.asking import Runs, probe
from foldcam.runtime.engine.canary.passed import has_passed, hash_of, passed_path, remember
from foldcam.runtime.engine.canary.verdict import ProbeVerdict
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable


class _Opened(Runs, Protocol):
    accepted_wrong: str | None

    def close(self) -> None: ...


Backend = TypeVar("Backend", bound=_Opened)

HOW_TO_GET_PROBES = "foldcam probes {model} adds some"
"""What is said of a file of before there were probe pictures."""


class WrongAnswersError(FoldcamError):
    """A library's answers are not those of the float model."""


def checked(
    backend: Backend,
    path: Path,
    sha256: str | None = None,
    *,
    accept_wrong: bool = False,
    served: bool = False,
) -> Backend:
    """A backend that answers rightly; shown the probe pictures unless it passed before.

    Args:
        backend: just opened; a model whose bank is an input has none yet.
        sha256: of that file; None reads it.
        accept_wrong: whether wrong answers are warned of and not refused; they are found in
            `accepted_wrong_of` then, and nothing is remembered.
        served: whether a server runs the file; it may do so by another engine the next time, so
            that nothing is remembered.

    Raises:
        WrongAnswersError: its answers are wrong; it is closed then.
        FoldcamError: it failed; it is closed then.
    """
    if backend.contract.canary is None:
        return backend
    try:
        place = None if served else passed_path(sha256 or hash_of(path), backend)
        if place is not None and has_passed(place):
            return backend
        verdict = probe(backend)
        assert verdict is not None
        if verdict.right:
            if place is not None:
                remember(place, backend, verdict)
            return backend
        sentence = wrong_sentence(backend, path, verdict, served=served)
        if not accept_wrong:
            raise WrongAnswersError(
                f"{sentence} (`runtime run`, build, bench and gate use it all the same with "
                "--accept-wrong)."
            )
    except BaseException:
        backend.close()
        raise
    print(f"WARNING: {printable(sentence)}; accepted by --accept-wrong.", file=sys.stderr)
    backend.accepted_wrong = sentence
    return backend


def accepted_wrong_of(backend: object) -> str | None:
    """What of a backend's answers is wrong and was accepted; None where nothing is known to be."""
    # A backend of the user's own is not asked, and has no such attribute.
    found: str | None = getattr(backend, "accepted_wrong", None)
    return found


def wrong_sentence(
    backend: Runs, path: Path, verdict: ProbeVerdict, *, served: bool = False
) -> str:
    """What is wrong and what helps, without a full stop."""
    return (
        f"{path} answers wrongly in {backend.name} on {backend.device} "
        f"({verdict.pictures} probe pictures in {verdict.precision}): "
        f"{'; '.join(verdict.failures)}: {_remedy(backend, path, verdict, served)}"
    )


def _remedy(backend: Runs, path: Path, verdict: ProbeVerdict, served: bool) -> str:
    precise = {
        "fp32": "",
        "fp16": "export the model with --precision fp32, ",
        "int8": "calibrate the model with more layers in --keep-float, ",
    }[verdict.precision]
    if served:
        remedy = "serve the .onnx itself (runtime deploy --platform onnx), or leave out --server"
        return f"{precise}{remedy}"
    if not backend.name.startswith("onnxruntime"):
        return f"{precise}use another TensorRT, or run the .onnx with --backend onnxruntime"
    if backend.device != "cpu":
        return f"{precise}use another ONNX Runtime, or run {path} with --provider cpu"
    return f"{precise}use another ONNX Runtime, or export the model again"
