"""What an engine says of itself, read without TensorRT and without deserialising."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from foldcam.runtime.contract.explanation import explanation_facts
from foldcam.runtime.engine.manifest import (
    Manifest,
    manifest_path,
    read_manifest,
    tensor_record,
)
from foldcam.runtime.engine.offer import duration_text
from foldcam.runtime.engine.options import MIB, Profile
from foldcam.runtime.engine.preflight import check_files
from foldcam.runtime.system.errors import FoldcamError

_SHOWN_LAYERS = 5


def engine_report(path: Path) -> dict[str, Any]:
    """Everything known about an engine, as JSON values.

    Returns:
        `file`, `bytes`, `manifest` (its path), `inputs`, `outputs`, what the manifest
        records, `label_count`, `storage`, `explanation`, `coarse` and `contract` as of the
        model's own file, and `problem`: why the files would be refused on any machine, or
        None.
    """
    if not path.is_file():
        raise FoldcamError(f"{path} does not exist.")
    manifest = read_manifest(path)
    try:
        check_files(path)
        problem = None
    except FoldcamError as error:
        problem = str(error)
    contract = manifest.contract(str(manifest_path(path)))
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "manifest": str(manifest_path(path)),
        **manifest_record(manifest),
        "label_count": len({run.name for run in contract.labels}),
        "storage": None if contract.bank.storage is None else contract.bank.storage.sentence(),
        **explanation_facts(contract),
        "unknown_rule": None if contract.unknown is None else contract.unknown.sentence(),
        "contract": manifest.metadata,
        "problem": problem,
    }


def manifest_record(manifest: Manifest) -> dict[str, Any]:
    """A manifest without the model's metadata, as JSON values."""
    options = manifest.options
    return {
        "flavour": manifest.flavour,
        "version": manifest.version,
        "precision": manifest.precision,
        "typing": manifest.typing,
        "compute_capabilities": list(manifest.target.compute_capabilities),
        "and_later": manifest.target.and_later,
        "device": manifest.target.device,
        "platform": asdict(manifest.platform),
        "profiles": [
            {"min": each.low, "opt": each.best, "max": each.high} for each in manifest.profiles
        ],
        "workspace_mib": options.workspace and options.workspace // MIB,
        "dla_core": options.dla_core,
        "dla_fallback": list(manifest.dla_fallback),
        "build_seconds": manifest.build_seconds,
        "foldcam": manifest.foldcam,
        "model": asdict(manifest.model),
        "plan": asdict(manifest.plan),
        "inputs": [tensor_record(tensor) for tensor in manifest.inputs],
        "outputs": [tensor_record(tensor) for tensor in manifest.outputs],
    }


def engine_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The engine's own lines of the printed report: a name and a value each."""
    platform, model = report["platform"], report["model"]
    where = f"{platform['system']} {platform['machine']}"
    if platform["l4t"]:
        where += f", Jetson Linux {platform['l4t']}"
    later = " and later" if report["and_later"] else ""
    title = "TensorRT-RTX" if report["flavour"] == "tensorrt_rtx" else "TensorRT"
    return [
        ("engine", f"{title} {report['version']}, {report['precision']}, {report['typing']} types"),
        ("GPU", f"compute capability {', '.join(report['compute_capabilities'])}{later}"),
        ("device", report["device"]),
        ("platform", where),
        ("batch", profiles_text([Profile(*each.values()) for each in report["profiles"]])),
        ("DLA", dla_text(report["dla_core"], report["dla_fallback"])),
        ("built from", f"{model['name']} ({model['bytes'] / 1e6:.1f} MB)"),
        ("built in", duration_text(report["build_seconds"])),
    ]


def profiles_text(profiles: list[Profile]) -> str:
    """Batch sizes to read, such as `1, 2 to 4`."""
    return ", ".join(_profile_text(profile) for profile in profiles)


def dla_text(core: int | None, fallback: list[str]) -> str:
    """The DLA core and the layers that it cannot run; empty without one."""
    if core is None:
        return ""
    if not fallback:
        return f"core {core}, every layer"
    shown = ", ".join(fallback[:_SHOWN_LAYERS])
    more = f" and {len(fallback) - _SHOWN_LAYERS} more" if len(fallback) > _SHOWN_LAYERS else ""
    return f"core {core}; on the GPU: {shown}{more}"


def _profile_text(profile: Profile) -> str:
    if profile.fixed:
        return str(profile.low)
    best = "" if profile.best == profile.high else f" (fastest at {profile.best})"
    return f"{profile.low} to {profile.high}{best}"
