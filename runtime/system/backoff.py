"""How long to wait before the next attempt."""

from __future__ import annotations

import random

LEAST_SECONDS = 0.01


class Backoff:
    """Waits that double up to a limit, with jitter, so that many devices do not come at once.

    Half of each wait is fixed and half is drawn ("equal jitter", Brooker, Exponential
    Backoff And Jitter, 2015).
    """

    def __init__(self, first: float, most: float, generator: random.Random | None = None) -> None:
        # Whoever asks for no wait at all means a short one, not a loop at full speed.
        self._first = max(first, LEAST_SECONDS)
        self._most = max(most, LEAST_SECONDS)
        self._random = generator or random.Random()
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        # Beyond 2**60 times the first wait no limit is meant.
        longest = min(self._most, self._first * 2.0 ** min(self._failures, 60))
        self._failures += 1
        return longest / 2 + self._random.uniform(0, longest / 2)

    def reset(self) -> None:
        """All is well again."""
        self._failures = 0
