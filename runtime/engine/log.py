"""The one logger of a process: TensorRT's reasons are nowhere else.

Builder and runtime return None where they fail, and say why only to the first logger
that the process gave them.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from foldcam.runtime.engine.flavours import Flavour, FlavourName
from foldcam.runtime.system.text import printable, shorten

_ERROR = 1  # of ILogger.Severity; 0 is an internal error
_KEPT = 500
_WIDTH = 300
_loggers: dict[FlavourName, OwnedLogger] = {}
_lock = threading.Lock()


@dataclass
class Messages:
    """The latest errors, with the place of each in the whole sequence."""

    _latest: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, severity: int, text: str) -> None:
        """Keep a message; what is less than an error is not kept."""
        if severity > _ERROR:
            return
        with self._lock:
            self._latest.append((self._count, text))
            self._count += 1

    def mark(self) -> int:
        """Now, as a place in the sequence."""
        with self._lock:
            return self._count

    def errors(self, since: int = 0) -> list[str]:
        """Errors from a mark on, oldest first, one printable line each, none twice."""
        with self._lock:
            found = [text for at, text in self._latest if at >= since]
        lines = [shorten(printable(" ".join(text.split())), _WIDTH) for text in found]
        return list(dict.fromkeys(lines))

    def reason(self, since: int = 0) -> str:
        """The last error from a mark on, for an exception; says so if there was none."""
        errors = self.errors(since)
        return errors[-1].rstrip(".") if errors else "it gave no reason"


@dataclass(frozen=True)
class OwnedLogger:
    """What to hand to TensorRT, and what it said."""

    handle: Any
    messages: Messages


def owned_logger(flavour: Flavour) -> OwnedLogger:
    """The logger of this process for a flavour, made once and never freed."""
    with _lock:
        if flavour.name not in _loggers:
            _loggers[flavour.name] = _make(flavour.module)
        return _loggers[flavour.name]


def _make(module: Any) -> OwnedLogger:
    messages = Messages()

    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            messages.add(int(severity), str(text))

    return OwnedLogger(Collector(), messages)
