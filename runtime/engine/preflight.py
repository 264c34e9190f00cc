"""Whether an engine fits, asked before any of its bytes reach TensorRT.

A plan is executable. What TensorRT says of one that does not fit is a tag number, or a
crash; here each reason is a sentence with both values and the command that fixes it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.contract.tensors import check_tensors
from foldcam.runtime.engine.device import DeviceFacts
from foldcam.runtime.engine.manifest import Manifest, manifest_path, read_manifest
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special, sha256_of_file

# Every version's header is longer; a shorter file makes some of them read past its end.
MIN_PLAN_BYTES = 64


@dataclass(frozen=True)
class CheckedEngine:
    """An engine that fits this machine."""

    path: Path
    manifest: Manifest
    plan: bytes


def load_engine(path: Path, device: DeviceFacts | None, onnx: Path | None = None) -> CheckedEngine:
    """Read an engine that the user named, and check everything that can be.

    Args:
        device: where it is to run; None leaves out what needs one.
        onnx: the model that it should be of; None takes the one it was built from, if
            that lies beside it.
    """
    _check_present(path)
    manifest = read_manifest(path)
    remedy = _remedy(path, manifest, onnx)
    if device is not None:
        _check_machine(path, manifest, device, remedy)
    plan = _read_plan(path, manifest, remedy)
    _check_manifest(path, manifest, remedy)
    _check_model(path, manifest, onnx, remedy)
    return CheckedEngine(path, manifest, plan)


def check_engine(path: Path, device: DeviceFacts | None, onnx: Path | None = None) -> Manifest:
    """As `load_engine`, for those who only want to know."""
    return load_engine(path, device, onnx).manifest


def _check_present(path: Path) -> None:
    if path.is_dir():
        raise FoldcamError(f"{path} is a folder, not an engine.")
    if not path.exists():
        raise FoldcamError(
            f"{path} does not exist: build it with: runtime build MODEL.onnx --out {path}"
        )
    if not path.is_file():
        raise FoldcamError(f"{path} is a device or a pipe, not an engine.")


def _check_machine(path: Path, manifest: Manifest, device: DeviceFacts, remedy: str) -> None:
    installed = device.tensorrt.get(manifest.flavour)
    if installed is None:
        others = ", ".join(f"{name} {v}" for name, v in device.tensorrt.items()) or "none"
        raise FoldcamError(
            f"{path} needs {manifest.title}, whose module {manifest.flavour} is not installed here "
            f"(found: {others}): install it, or build for what is here: {remedy}"
        )
    if installed != manifest.version:
        raise FoldcamError(
            f"{path} was built by {manifest.title} and this machine has version {installed}: "
            f"engines fit one version only, so build it again: {remedy}"
        )
    # A plan of TensorRT-RTX is made to be carried from machine to machine.
    portable = manifest.flavour == "tensorrt_rtx"
    if not portable:
        for what, built, here in (
            ("for", manifest.platform.machine, device.host.machine),
            ("on", manifest.platform.system, device.host.system),
        ):
            if built != here:
                raise FoldcamError(
                    f"{path} was built {what} {built or 'an unknown platform'} and this machine is "
                    f"{here}: engines do not move between platforms, so build it here: {remedy}"
                )
        built, here = (host.l4t or "no Jetson Linux" for host in (manifest.platform, device.host))
        if built != here:
            raise FoldcamError(
                f"{path} was built under Jetson Linux (L4T) {built} and this machine has {here}: "
                f"build it again after changing JetPack: {remedy}"
            )
    if device.gpu is None:
        raise FoldcamError(
            f"{path} needs an NVIDIA GPU of compute capability {manifest.target} and the driver "
            "finds none here: see `runtime doctor`, or run the model's .onnx on the CPU."
        )
    capability = device.gpu.compute_capability
    if not manifest.target.serves(capability):
        raise FoldcamError(
            f"{path} was built for compute capability {manifest.target} and {device.gpu.name} has "
            f"{capability}: build it for this GPU: {remedy}"
        )


def _read_plan(path: Path, manifest: Manifest, remedy: str) -> bytes:
    refuse_special(path)
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    size, expected = len(plan), manifest.plan.bytes
    if size == 0:
        raise FoldcamError(f"{path} is empty (its manifest says {expected} bytes): {remedy}")
    if size < expected:
        raise FoldcamError(
            f"{path} is cut off: it has {size} of the {expected} bytes that its manifest says, so "
            f"copy it again, or build it again: {remedy}"
        )
    if size > expected:
        raise FoldcamError(
            f"{path} has {size} bytes where its manifest says {expected}: it is another engine "
            f"or was added to, so build it again: {remedy}"
        )
    found = hashlib.sha256(plan).hexdigest()
    if found != manifest.plan.sha256:
        raise FoldcamError(
            f"{path} was changed after it was built (SHA-256 {found[:12]}..., its manifest says "
            f"{manifest.plan.sha256[:12]}...): do not run it, build it again: {remedy}"
        )
    if size < MIN_PLAN_BYTES:
        raise FoldcamError(f"{path} has {size} bytes, too few for any engine: {remedy}")
    return plan


def _check_manifest(path: Path, manifest: Manifest, remedy: str) -> None:
    where = str(manifest_path(path))
    contract = manifest.contract(where)
    try:
        check_tensors(contract, manifest.inputs, manifest.outputs, where)
    except FoldcamError as error:
        # The remedy of an ONNX file is to export it again; an engine's is to build it again.
        fact = str(error).partition(": the file was changed")[0]
        raise FoldcamError(f"{fact}: build it again: {remedy}") from None
    promised = manifest.metadata.get("precision")
    if not _agrees(manifest.precision, promised):
        raise FoldcamError(
            f"{where} says that the engine computes in {manifest.precision} and the model's "
            f"metadata say {promised}: build it again: {remedy}"
        )


def _check_model(path: Path, manifest: Manifest, onnx: Path | None, remedy: str) -> None:
    beside = path.with_name(manifest.model.name)
    if onnx is None and not beside.is_file():
        return
    model = onnx or beside
    promised = _promised_precision(model)
    if not _agrees(manifest.precision, promised):
        raise FoldcamError(
            f"{path} computes in {manifest.precision} and {model} is now {promised}: build it "
            f"again: {remedy}"
        )
    found = sha256_of_file(model)
    if found != manifest.model.sha256:
        raise FoldcamError(
            f"{path} was built from another {manifest.model.name} (SHA-256 "
            f"{manifest.model.sha256[:12]}...) than {model} (SHA-256 {found[:12]}...): build it "
            f"again: {remedy}"
        )


def _promised_precision(model: Path) -> object:
    metadata = read_header(model).metadata
    try:
        document = json.loads(metadata.get(METADATA_KEY, ""))
    except (ValueError, RecursionError):
        return None
    return document.get("precision") if isinstance(document, dict) else None


def _agrees(built: str, promised: object) -> bool:
    """Whether a precision is the promised one; a quantized network says so in its graph only."""
    return promised not in ("fp32", "fp16") or built in ("int8", promised)


def _remedy(path: Path, manifest: Manifest, onnx: Path | None) -> str:
    return manifest.rebuild(onnx or path.with_name(manifest.model.name), path)
