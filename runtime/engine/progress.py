"""How far a build is: the builder's own phases where it tells them, the time always."""

from __future__ import annotations

import threading
from typing import Any, TextIO

from foldcam.runtime.system.standard_streams import RewrittenLine
from foldcam.runtime.system.text import printable


class BuildAbandonedError(KeyboardInterrupt):
    """The user would not wait for the builder, whose thread therefore still runs.

    Nothing was written. The interpreter cannot end in the usual way beside that thread.
    """


class BuildState:
    """What the builder's thread says and the user's thread reads; safe between the two."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, list[int]] = {}
        self._cancelled = False

    def start(self, phase: str, steps: int) -> None:
        """A phase began, inside of those that run."""
        with self._lock:
            self._phases[phase] = [0, steps]

    def step(self, phase: str, step: int) -> bool:
        """A step is done; False asks the builder to stop."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase][0] = step + 1
            return not self._cancelled

    def finish(self, phase: str) -> None:
        """A phase ended."""
        with self._lock:
            self._phases.pop(phase, None)

    def cancel(self) -> None:
        """Ask the builder to stop at its next step."""
        with self._lock:
            self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to stop."""
        with self._lock:
            return self._cancelled

    def text(self) -> str:
        """The outermost and the innermost phase, each with its steps; empty before the first."""
        with self._lock:
            running = [
                f"{name} {min(done, steps)}/{steps}" for name, (done, steps) in self._phases.items()
            ]
        return printable(" > ".join(dict.fromkeys([running[0], running[-1]]))) if running else ""


def make_monitor(module: Any, state: BuildState) -> Any | None:
    """An `IProgressMonitor` that reports to `state`; None where the version has none."""
    if not hasattr(module, "IProgressMonitor"):
        return None

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:  # noqa: ARG002
            state.start(name, steps)

        def step_complete(self, name: str, step: int) -> bool:
            return state.step(name, step)

        def phase_finish(self, name: str) -> None:
            state.finish(name)

    return Monitor()


class BuildLine(RewrittenLine):
    """Shows a build: one line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream, terminal_s=0.2, log_s=15.0)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self._write(printable(text) + "\n")

    def tick(self, state: BuildState) -> None:
        """Show time and phase, if the last time is long enough ago."""
        if self.is_due():
            self.show(f"{self._last - self._begin:.0f} s  {state.text()}".rstrip())


class QuietLine(BuildLine):
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def tick(self, state: BuildState) -> None:
        """Nothing."""

    def clear(self) -> None:
        """Nothing."""
