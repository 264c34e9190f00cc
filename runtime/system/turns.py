"""A lock that is fair: whoever asks first has it first, which `threading.Lock` does not promise."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A context manager that one thread is in at a time, in the order in which they came.

    Who leaves and comes back at once stands behind all that wait, so that of two busy threads
    neither is starved. It cannot be entered twice by one thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        # Released by whoever leaves, which hands the turn over without giving it up.
        mine.acquire()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False
