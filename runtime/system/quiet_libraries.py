"""No library of ours reports to its makers unless the user asks for that."""

from __future__ import annotations

import os

_OFF = {
    # Version 1.32 looks up its maker's host within seconds of the first session, and keeps an
    # identifier of this machine below the user's cache folder.
    "ORT_DISABLE_TELEMETRY": "1",
    # `ray` asks, or reports, when a cluster starts.
    "RAY_USAGE_STATS_ENABLED": "0",
    # `transformers` names itself, the machine and its versions with everything it loads.
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def keep_libraries_quiet() -> None:
    """Turn the reports of libraries off, by the variables that they read when imported.

    Called when any package of ours is imported, thus before they can be. What the user has set
    stays as it is.
    """
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)
