"""Files that one process locks at a time."""

from __future__ import annotations

import fcntl
import time

_LOOK_S = 0.01


def lock_before(file: int, deadline: float) -> bool:
    """Lock a file once nobody else does; whether that was possible.

    Args:
        deadline: of `time.monotonic()`, until which it is tried.
    """
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        except OSError:
            return False
