"""What this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata, util
from pathlib import Path

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten
from foldcam.runtime.system.version import version

Status = str
OK, MISSING, OPTIONAL, WRONG = "ok", "missing", "optional", "wrong"

_L4T_RELEASE = Path("/etc/nv_tegra_release")
# Module, distribution, and what to do where it is wanted and missing.
_OPTIONAL_MODULES = (
    ("tensorrt", "tensorrt", "comes with JetPack; elsewhere: pip install tensorrt"),
    ("tensorrt_rtx", "tensorrt_rtx", "for RTX cards: pip install 'foldcam[rtx]'"),
    (
        "cuda",
        "cuda-bindings",
        "for TensorRT: pip install 'cuda-bindings==12.*' on JetPack 6, 13.* on JetPack 7",
    ),
    ("pycuda", "pycuda", "not needed where cuda-bindings is"),
)


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str  # what was looked for
    # `ok`, `missing` (needed), `optional` (absent, needed for some uses), or `wrong` (it answers
    # wrongly here)
    status: Status
    detail: str  # what was found
    advice: str = ""  # what to do, empty if nothing


def diagnose(model: Path | None = None) -> list[Check]:
    """Look at everything. A check that itself fails becomes a line of the report.

    Args:
        model: a folded model or engine; None takes the one that a run takes.
    """
    checks: list[Check] = []
    for look in (_python, _machine, _numpy, _opencv, _onnxruntime):
        checks += _guarded(look.__name__, look)
    for module, name, advice in _OPTIONAL_MODULES:
        checks += _guarded(name, partial(_optional_module, module, name, advice))
    checks += _guarded("cameras", _cameras)
    checks += _guarded("display", _display)
    return [*checks, *_guarded("probes", partial(_model, model))]


def diagnose_source(uri: str) -> list[Check]:
    """How a source would be read; nothing is opened."""
    from foldcam.runtime.sources.address import parse_address
    from foldcam.runtime.sources.camera import csi_pipeline
    from foldcam.runtime.sources.capture import check_possible
    from foldcam.runtime.sources.options import SourceOptions

    # A size, in case it is raw frames whose size comes by flags.
    address = parse_address(uri, SourceOptions(width=640, height=480) if uri == "-" else None)
    checks = [Check("source", OK, address.name), Check("kind", OK, address.kind)]
    if address.kind == "csi":
        checks.append(Check("pipeline", OK, csi_pipeline(int(address.target), address.options)))
    try:
        check_possible(address)
    except FoldcamError as error:
        checks.append(Check("opencv", MISSING, "cannot read it", str(error)))
    return checks


def diagnosis_text(checks: list[Check]) -> str:
    """The report as lines to read."""
    wide = max(len(check.name) for check in checks)
    lines: list[str] = []
    for check in checks:
        lines.append(f"{check.status:9}{check.name:{wide}}  {printable(check.detail)}")
        if check.advice:
            lines.append(f"{'':9}{'':{wide}}  -> {printable(check.advice)}")
    return "\n".join(lines)


def _guarded(name: str, look: Callable[[], list[Check]]) -> list[Check]:
    try:
        return look()
    except Exception as error:  # a broken installation is just what a doctor meets
        reason = shorten(f"{type(error).__name__}: {error}".splitlines()[0], 200)
        return [Check(name.strip("_"), MISSING, f"installed but broken ({reason})")]


def _python() -> list[Check]:
    found = f"{platform.python_version()} ({sys.executable})"
    return [Check("foldcam", OK, version()), Check("python", OK, found)]


def _machine() -> list[Check]:
    checks = [Check("platform", OK, f"{platform.platform()}, {os.cpu_count()} processors")]
    if _L4T_RELEASE.exists():
        release = _L4T_RELEASE.read_text("utf-8", "replace").splitlines()
        checks.append(Check("jetpack", OK, shorten(release[0] if release else "L4T", 100)))
    return checks


def _numpy() -> list[Check]:
    import numpy

    return [Check("numpy", OK, numpy.__version__)]


def _opencv() -> list[Check]:
    if not _present("cv2"):
        return [
            Check(
                "opencv",
                MISSING,
                "not installed",
                "pip install 'foldcam[cpu]'; on a Jetson use JetPack's own: make the environment "
                "with `python3 -m venv --system-site-packages`",
            )
        ]
    import cv2

    from foldcam.runtime.images.opencv import has
    from foldcam.runtime.sinks.encoders import FALLBACKS, best_codec

    checks = [Check("opencv", OK, cv2.__version__)]
    for option, name, loss in (
        ("FFMPEG", "opencv ffmpeg", "no video files and no network streams"),
        ("GStreamer", "opencv gstreamer", "no csi:// cameras; JetPack's own OpenCV has it"),
        ("v4l/v4l2", "opencv v4l2", "no USB cameras on Linux"),
        ("GUI", "opencv windows", "no --show; pip install 'foldcam[window]' has windows"),
    ):
        there = has(option)
        checks.append(
            Check(name, OK if there else OPTIONAL, "yes" if there else "no", "" if there else loss)
        )
    codec = best_codec(".mp4")
    loss = "films are MPEG-4 part 2, which browsers do not play; apt install ffmpeg"
    checks.append(
        Check("film encoder", OPTIONAL, codec, loss)
        if codec == FALLBACKS[".mp4"]
        else Check("film encoder", OK, f"H.264 ({codec})")
    )
    return checks


def _onnxruntime() -> list[Check]:
    if not _present("onnxruntime"):
        advice = "pip install 'foldcam[cpu]', or 'foldcam[gpu]' for CUDA"
        return [Check("onnxruntime", MISSING, "not installed", advice)]
    onnxruntime = import_module("onnxruntime")
    providers = ", ".join(
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )
    return [Check("onnxruntime", OK, f"{onnxruntime.__version__} ({providers})")]


def _optional_module(module: str, name: str, advice: str) -> list[Check]:
    if not _present(module):
        return [Check(name, OPTIONAL, "not installed", advice)]
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        # Asked of the module only now: importing TensorRT takes seconds.
        found = str(getattr(import_module(module), "__version__", "version unknown"))
    return [Check(name, OK, found)]


def _cameras() -> list[Check]:
    from foldcam.runtime.sources.camera import video_devices

    devices = video_devices(Path("/dev"), Path("/sys/class/video4linux"))
    if not devices:
        return [Check("cameras", OPTIONAL, "none (/dev/video*)", "plug one in, or use --file PATH")]
    listed = ", ".join(f"{path} ({name})" if name else path for path, name in devices)
    locked = [path for path, _ in devices if not os.access(path, os.R_OK | os.W_OK)]
    if locked:
        advice = f"no permission for {locked[0]}: sudo usermod -aG video $USER, then log in again"
        return [Check("cameras", MISSING, listed, advice)]
    return [Check("cameras", OK, listed)]


def _display() -> list[Check]:
    found = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    if found or not sys.platform.startswith("linux"):
        return [Check("display", OK, found or "yes")]
    return [Check("display", OPTIONAL, "none", "only --show needs one")]


def _model(model: Path | None) -> list[Check]:
    """The model, and its probe pictures in what runs it and in the engine beside it."""
    from foldcam.runtime.engine import ENGINE_SUFFIXES
    from foldcam.runtime.pipeline.default_model import find_model

    checks = []
    if model is None:
        try:
            model = find_model()
        except FoldcamError as error:
            return [Check("default model", OPTIONAL, "none", str(error))]
        checks.append(Check("default model", OK, str(model)))
    beside = [model.with_suffix(suffix) for suffix in ENGINE_SUFFIXES]
    engines = [_probed(path, OPTIONAL) for path in beside if path != model and path.is_file()]
    return [*checks, _probed(model, MISSING), *engines]


def _probed(path: Path, absent: Status) -> Check:
    from foldcam.runtime.backends import open_backend
    from foldcam.runtime.engine.canary.check import (
        HOW_TO_GET_PROBES,
        WrongAnswersError,
        probe,
        wrong_sentence,
    )

    name = f"probes, {path.name}"
    try:
        with closing(open_backend(path)) as backend:
            # Asked again, whatever is remembered of it.
            verdict = probe(backend)
            if verdict is None:
                model = path.with_suffix(".onnx")
                again = "" if path == model else ", and the engine is built again from it"
                how = HOW_TO_GET_PROBES.format(model=model)
                advice = f"by them wrong answers on this machine are found: {how}{again}"
                return Check(name, OPTIONAL, "the model has no probe pictures", advice)
            if not verdict.right:
                return Check(name, WRONG, wrong_sentence(backend, path, verdict))
            where = f"{backend.name} on {backend.device}"
            return Check(name, OK, f"answers rightly in {where} ({verdict.figures()})")
    except WrongAnswersError as error:
        return Check(name, WRONG, str(error))
    except FoldcamError as error:
        return Check(name, absent, f"{path} cannot be run", str(error))


def _present(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
