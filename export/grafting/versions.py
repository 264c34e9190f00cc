"""Versions of what takes part in an export."""

from __future__ import annotations

import importlib.metadata
import platform

_TOOLS = ("foldcam", "torch", "onnx", "onnxscript", "numpy")


def tool_versions() -> dict[str, str]:
    """Versions of what takes part in an export."""
    versions = {"python": platform.python_version()}
    for tool in _TOOLS:
        try:
            versions[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
