"""Where a result comes from: the command, the day, the revision."""

from __future__ import annotations

import datetime
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """`command`, `date` (UTC) and `commit` of the run that is under way.

    The command names programs and folders without the place where they are: a result is for
    others to read.
    """
    words = [Path(sys.argv[0]).name, *(_shown(word) for word in sys.argv[1:])]
    return {
        "command": shlex.join(words),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
    }


def _shown(word: str) -> str:
    return Path(word).name if os.sep in word and Path(word).is_absolute() else word


def commit() -> str:
    """The revision of this checkout, marked where files differ from it; empty without git."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
