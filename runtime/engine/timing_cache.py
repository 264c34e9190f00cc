"""Measured kernels, kept between builds: the second build of a model takes a fraction.

The file belongs to one version of TensorRT on one kind of GPU, and TensorRT trusts what
is in it, so it is only taken from a folder that nobody else can write.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from foldcam.runtime.engine.flavours import Flavour
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path
from foldcam.runtime.system.user_cache import cache_root

MAX_BYTES = 512 << 20


def cache_path(
    flavour: Flavour,
    device: str,
    compute_capability: str,
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """Where the cache of a flavour, its version and a GPU is kept.

    `$XDG_CACHE_HOME/foldcam/timing` or `~/.cache/foldcam/timing`
    (XDG Base Directory Specification).
    """
    words = f"{flavour.name}-{flavour.version}-sm{compute_capability}-{device}"
    return cache_root(environment) / "timing" / (re.sub(r"[^A-Za-z0-9.]+", "-", words) + ".cache")


def load_cache(path: Path) -> tuple[bytes, str]:
    """The cache's bytes, and why it is not used (empty if it is, or if there is none)."""
    try:
        folder, file = path.parent.stat(), path.stat()
    except OSError:
        return b"", ""
    for what, facts in ((path.parent, folder), (path, file)):
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or facts.st_uid not in (0, os.getuid()):
            return b"", f"the timing cache is not used: others can write {what}"
    if file.st_size > MAX_BYTES:
        return b"", f"the timing cache is not used: {path} is {file.st_size >> 20} MiB"
    try:
        return path.read_bytes(), ""
    except OSError as error:
        return b"", f"the timing cache is not used: {path}: {error.strerror}"


def store_cache(path: Path, content: bytes) -> str:
    """Keep the cache; returns why it could not be kept, empty if it was."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        path.chmod(0o600)
    except (FoldcamError, OSError) as error:
        # The engine is built: a cache that cannot be kept costs time and nothing else.
        return f"the timing cache is not kept: {error}"
    return ""
