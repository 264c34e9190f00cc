"""A folder for engines that a library keeps by itself: nobody else may be able to write there.

Engines are executable, and ONNX Runtime loads whatever its cache holds under the right
name. So the cache is held to the rule for engines: only what this user put there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import user_errors_for

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can write, or check the one that is there."""
    with user_errors_for(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        real = path.resolve(strict=True)
        for folder in (real, *real.parents):
            _check(folder, folder.stat(), path)
        for entry in sorted(real.rglob("*")):
            _check(entry, entry.lstat(), path)
    return real


def _check(path: Path, facts: os.stat_result, cache: Path) -> None:
    if facts.st_uid not in (0, os.getuid()):
        _refuse(path, f"belongs to user {facts.st_uid}", cache)
    # In a sticky folder such as /tmp others can add files, but not replace this user's.
    sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX and path != cache
    if facts.st_mode & _OTHERS and not stat.S_ISLNK(facts.st_mode) and not sticky:
        _refuse(path, f"can be written by others (mode {stat.S_IMODE(facts.st_mode):o})", cache)
    if stat.S_ISLNK(facts.st_mode):
        _refuse(path, "is a symbolic link", cache)


def _refuse(path: Path, fact: str, cache: Path) -> None:
    raise FoldcamError(
        f"{path} {fact}, and the engines in the cache {cache} are code that would run as you: "
        f"delete that cache and run `chmod go-w {path}`, or set XDG_CACHE_HOME to a folder of "
        "your own."
    )
