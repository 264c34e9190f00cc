"""Reports of measurements on a device, with a digest of all that they rest on.

"Signed" means: the report holds the hashes of models, engine and images and the facts of the
device, and beside it stands the SHA-256 of the whole, which anybody can compute again. Who
keeps the digest elsewhere can tell that neither report nor files were changed since. It is no
cryptographic signature: who writes a report can write its digest, too.
"""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from foldcam.runtime.backends import Backend
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.engine.device import find_gpu, find_host
from foldcam.runtime.engine.manifest import Manifest
from foldcam.runtime.measurement.comparison.images import GateImages
from foldcam.runtime.system.files import digest_of, sha256_of_file
from foldcam.runtime.system.strict_json import finite
from foldcam.runtime.system.version import version


def signed(report: dict[str, Any]) -> dict[str, Any]:
    """The report with its digest: `report`, and `sha256` of it as `runtime.system.files` says."""
    plain = finite(report)
    return {"report": plain, "sha256": digest_of(plain)}


def model_facts(path: Path, contract: Contract) -> dict[str, Any]:
    """What a report says of a model's file."""
    calibration = contract.calibration
    return {
        "file": path.name,
        "sha256": sha256_of_file(path),
        "precision": "int8" if calibration else contract.precision,
        "calibration": None if calibration is None else dict(vars(calibration)),
        "network_sha256": contract.origin.network_sha256,
        "bank_sha256": contract.bank.sha256,
    }


def engine_facts(path: Path, manifest: Manifest) -> dict[str, Any]:
    """What a report says of an engine."""
    return {
        "file": path.name,
        "sha256": manifest.plan.sha256,
        "model_sha256": manifest.model.sha256,
        "built_by": f"{manifest.flavour} {manifest.version}",
        "precision": manifest.precision,
        "typing": manifest.typing,
    }


def image_facts(images: GateImages) -> dict[str, Any]:
    """What a report says of the images."""
    return {
        "count": len(images.images),
        "labelled": sum(label is not None for label in images.labels),
        "sha256": images.sha256,
        "skipped": [list(pair) for pair in images.skipped],
    }


def device_facts(backend: Backend) -> dict[str, Any]:
    """Where it was measured, and by what."""
    gpu, host = find_gpu(), find_host()
    return {
        "library": backend.name,
        "runs_on": backend.device,
        "gpu": None if gpu is None else gpu.name,
        "compute_capability": None if gpu is None else gpu.compute_capability,
        "machine": host.machine,
        "system": host.system,
        "l4t": host.l4t,
        "python": platform.python_version(),
        "foldcam": version(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
