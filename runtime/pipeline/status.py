"""The live status line."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from typing import TextIO

from foldcam.runtime.pipeline.summary import Progress
from foldcam.runtime.system.monitor import State
from foldcam.runtime.system.standard_streams import RewrittenLine
from foldcam.runtime.system.text import printable


class StatusLine(RewrittenLine):
    """Shows the run: one line that is rewritten on a terminal, every few seconds one elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream, terminal_s=0.1, log_s=5.0)

    def __call__(self, progress: Progress) -> None:
        """Show the run so far, if the last time is long enough ago."""
        if self.is_due():
            self.show(status_text(progress))


def status_text(progress: Progress) -> str:
    """Frames, frames per second, the network's time and the answer on one line.

    For live sources also the time from a frame's capture to its result. Drops are counted there,
    and sources that do not deliver named.
    """
    snapshot = progress.monitor.snapshot()
    total = f"/{progress.expected}" if progress.expected else ""
    parts = [
        f"frame {progress.frames}{total}",
        f"{snapshot.fps:.1f} fps",
        f"network {snapshot.network_ms['p50']:.1f} ms",
    ]
    if any(stream.live for stream in snapshot.streams):
        p50, p99 = (snapshot.latency_ms[name] for name in ("p50", "p99"))
        parts.append(f"capture to result p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    drops = Counter[str]()
    for stream in snapshot.streams:
        drops.update(stream.drops)
    unanswered = sum(sum(stream.unanswered.values()) for stream in snapshot.streams)
    drops.update({"without an answer": unanswered} if unanswered else {})
    parts += [f"{count} {cause}" for cause, count in drops.items()]
    if thinned := sum(stream.thinned for stream in snapshot.streams):
        parts.append(f"{thinned} left out by --every")
    parts += [
        f"{stream.name}: {stream.state}" + (f" ({stream.reason})" if stream.reason else "")
        for stream in snapshot.streams
        if stream.live and stream.state != State.streaming.value
    ]
    if progress.frames:
        answer = "class" if progress.classified else "nearest"
        answer = "estimate" if progress.continuous else answer
        parts.append(f"{answer}: {progress.answer}")
    return printable("  ".join(parts))


def say_state(source: str, state: State, reason: str) -> None:
    """A line on standard error when a source is lost, and when it is there again."""
    if state in (State.stalled, State.backoff):
        _say(f"note: {source}: {reason}; trying again.")
    elif state is State.streaming:
        _say(f"note: {source} is streaming.")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening
        # On a terminal the status line may be there: the note takes its place.
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{clear}{printable(text)}\n")
        sys.stderr.flush()
