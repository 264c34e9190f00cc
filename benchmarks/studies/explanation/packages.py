"""A package of the index as a place to read a trained network from: installed, or a wheel."""

from __future__ import annotations

import os
import sys
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from foldcam.runtime.system.errors import FoldcamError

WHEELS = "FOLDCAM_WHEELS"
"""The environment variable that names the folder of downloaded wheels."""
_DEFAULT = "build/wheels"


def read_member(package: str, wheel: str, member: str) -> bytes:
    """The bytes of a file in a package, which is not imported.

    Args:
        wheel: the name of its distribution, as in the wheel's file name.
    """
    installed = _installed(package)
    try:
        if installed is not None:
            return (installed / member).read_bytes()
        path = _wheel(wheel)
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{package}/{member}")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise FoldcamError(
            f"{member} of the package {package} cannot be read ({error}): {_how(wheel)}."
        ) from error


def imported(module: str, wheel: str) -> ModuleType:
    """A module of a package; Python imports from a wheel as from a folder.

    Args:
        wheel: the name of its distribution, as in the wheel's file name.
    """
    if _installed(module.partition(".")[0]) is None:
        path = str(_wheel(wheel))
        if path not in sys.path:
            # Last, so that it cannot shadow what is installed.
            sys.path.append(path)
    try:
        return import_module(module)
    except ImportError as error:
        raise FoldcamError(f"{module} does not import ({error}).") from error


def _installed(package: str) -> Path | None:
    # Not imported: packages load libraries that only their own use of the network needs.
    spec = find_spec(package)
    if spec is None or spec.origin is None or ".whl" in spec.origin:
        return None
    return Path(spec.origin).parent


def _wheel(name: str) -> Path:
    folder = Path(os.environ.get(WHEELS, _DEFAULT))
    found = sorted(folder.glob(f"{name}-*.whl"))
    if not found:
        raise FoldcamError(
            f"The package {name.replace('_', '-')} is not installed, and {folder} holds no wheel "
            f"of it: {_how(name)}."
        )
    return found[-1]


def _how(name: str) -> str:
    index_name = name.replace("_", "-")
    return (
        f"run `pip download --no-deps --dest {_DEFAULT} {index_name}`, or name another folder of "
        f"wheels in {WHEELS}"
    )
