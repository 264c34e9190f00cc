"""What `runtime run MODEL.onnx --backend tensorrt` does about the engine it needs.

A build takes minutes, so it never happens unasked: either a fitting engine is there, or
the message says what would be built, what keeps the present one from being used, and how
long the last build took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foldcam.runtime.engine.builder import engine_path
from foldcam.runtime.engine.device import DeviceFacts
from foldcam.runtime.engine.flavours import Wanted
from foldcam.runtime.engine.manifest import Manifest, read_manifest
from foldcam.runtime.engine.options import BuildOptions
from foldcam.runtime.engine.preflight import check_engine
from foldcam.runtime.system.errors import FoldcamError

Check = Callable[[Path, DeviceFacts, Path | None], Manifest]


@dataclass(frozen=True)
class Offer:
    """Which engine a model would run with.

    Attributes:
        problem: why it is not, as a sentence; empty if it is.
        options: what a build would use: those of the engine that is there, if it can be read.
        last_seconds: how long that one took to build, None if it is not known.
    """

    engine: Path
    usable: bool
    problem: str
    options: BuildOptions
    last_seconds: float | None


def make_offer(model: Path, device: DeviceFacts, check: Check = check_engine) -> Offer:
    """Look for the engine of a model where `runtime build` puts it, and nowhere else."""
    engine = engine_path(model)
    options, seconds = BuildOptions(), None
    if engine.exists():
        try:
            manifest = read_manifest(engine)
            options, seconds = manifest.options, manifest.build_seconds
        except FoldcamError:
            pass  # the check below says what is wrong with it
    try:
        check(engine, device, model)
    except FoldcamError as error:
        problem = str(error) if engine.exists() else f"{engine} does not exist."
        return Offer(engine, False, problem, options, seconds)
    return Offer(engine, True, "", options, seconds)


def decide(model: Path, offer: Offer, allowed: bool, flavour: Wanted = "auto") -> bool:
    """Whether to build before running."""
    if offer.usable:
        return False
    if allowed:
        return True
    command = offer.options.command(model, flavour, offer.engine)
    took = (
        "how long that takes is not known yet"
        if offer.last_seconds is None
        else f"the last build took {duration_text(offer.last_seconds)}"
    )
    raise FoldcamError(
        f"{model} has no engine to run with ({offer.problem.rstrip('.')}): add --build, or run "
        f"`{command}` first; {took}."
    )


def duration_text(seconds: float) -> str:
    """A duration to read, such as `4 min 12 s` or `0.8 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
