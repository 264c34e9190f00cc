"""Attempts at a live source, in a thread that can be left behind.

OpenCV opens and reads in C++ and cannot be interrupted: who must stop at once does not
wait for it. FFmpeg's own timeouts end such a thread later, and it cleans up after itself.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.sources.capture import Capture
from foldcam.runtime.system.errors import FoldcamError

_ROOM = 2


class Picture(NamedTuple):
    """A picture and when it was there, by `time.monotonic()`."""

    image: Image
    at: float


class Worker:
    """A thread that does one piece of work after the other.

    One thread serves all attempts of a source unless it gets stuck: a new one for each
    would leave the allocator with a little more memory every time.
    """

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"foldcam {name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def submit(self, work: Callable[[], None]) -> None:
        """Do this next; it must not raise."""
        self._work.put(work)

    def retire(self) -> None:
        """End after what is being done."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            # Or its pictures would be kept until the next attempt.
            del work


class Grabber:
    """One attempt: opens a capture and reads it until it ends or nobody wants it any more."""

    def __init__(
        self, open_capture: Callable[[], Capture], changed: threading.Condition, *, newest: bool
    ) -> None:
        self._open = open_capture
        self._changed = changed
        self._newest = newest
        self.pictures: deque[Picture] = deque()
        """Those that wait, oldest first."""
        self.overtaken = 0
        """Pictures that gave way; whoever counts them sets it back."""
        self.bad = 0
        """Pictures that could not be decoded; whoever counts them sets it back."""
        self.opened = False
        self.fps: float | None = None
        self.failure: BaseException | None = None
        """Why it could not be opened, or what broke while reading."""
        self.over = False
        """Whether nothing more comes."""
        self._wanted = True

    def abandon(self) -> None:
        """Nobody wants it any more. Does not wait; call with the condition held."""
        self._wanted = False
        self.pictures.clear()
        self._changed.notify_all()

    def closed(self, seconds: float) -> bool:
        """Wait until the capture is closed; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.over, seconds)

    def work(self) -> None:
        """What a `Worker` does; never raises."""
        try:
            capture = self._open()
        except BaseException as error:
            self._end(error)
            return
        failure: BaseException | None = None
        try:
            with self._changed:
                self.opened, self.fps = True, capture.fps
                self._changed.notify_all()
            counted = 0
            while self._wanted and (image := capture.read()) is not None:
                bad, counted = capture.bad - counted, capture.bad
                self._hand_over(Picture(image, time.monotonic()), bad)
                del image
        except BaseException as error:
            failure = error
        finally:
            capture.release()
            self._end(failure)

    def _hand_over(self, picture: Picture, bad: int) -> None:
        with self._changed:
            self.bad += bad
            if self._newest:
                # Read on, or what waits in the network's buffers would be old by then.
                while len(self.pictures) >= _ROOM:
                    self.pictures.popleft()
                    self.overtaken += 1
            else:
                self._changed.wait_for(lambda: not self._wanted or len(self.pictures) < _ROOM)
            if self._wanted:
                self.pictures.append(picture)
                self._changed.notify_all()

    def _end(self, failure: BaseException | None) -> None:
        with self._changed:
            self.failure, self.over = failure, True
            self._changed.notify_all()


def clause(error: BaseException, name: str) -> str:
    """A failure as a clause, for lists that name the source already."""
    if not isinstance(error, FoldcamError):
        return f"failed with {type(error).__name__}"
    text = str(error).removeprefix(name).removeprefix(":").strip().removesuffix(".")
    return text.partition("cannot be opened: ")[2] or text
