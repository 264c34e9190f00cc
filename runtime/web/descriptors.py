"""How many connections the live page may have: each is an open file of the whole run."""

from __future__ import annotations

import logging
import os
import resource
from dataclasses import dataclass

from foldcam.runtime.system.errors import FoldcamError

_log = logging.getLogger(__name__)
_SPARE = 32
# For cameras that are opened again, files of recordings, a broker.
_OF_THE_RUN = 16
_FEWEST = 4


@dataclass(frozen=True)
class Budget:
    """What the page may have at the same time."""

    viewers: int
    connections: int


def budget(viewers: int) -> Budget:
    """Room for so many viewers, or for fewer where this process may not open enough files.

    The limit is raised as far as the system lets it.
    """
    wanted = 2 * viewers + _SPARE
    limit = _raised(_open_files() + _OF_THE_RUN + wanted)
    room = limit - _open_files() - _OF_THE_RUN
    if room >= wanted:
        return Budget(viewers, wanted)
    if room < _FEWEST:
        raise FoldcamError(
            f"The live page cannot be served: this process may have {limit} open files and needs "
            "more (ulimit -n 1024; in a systemd unit LimitNOFILE=1024)."
        )
    fewer = min(viewers, max(1, room // 2))
    _log.warning(
        "the live page has room for %d viewer%s: this process may have %d open files only",
        fewer, "" if fewer == 1 else "s", limit,
    )  # fmt: skip
    return Budget(fewer, room)


def _raised(needed: int) -> int:
    """The limit of open files, after asking for as many as are needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return needed
    if soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        if most > soft:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            except (OSError, ValueError):
                return soft
            return most
    return soft


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    except OSError:
        return _OF_THE_RUN
