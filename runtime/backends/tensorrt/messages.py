"""TensorRT's messages: collected where they appear, and put into words that help."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from foldcam.runtime.engine import log
from foldcam.runtime.system.text import printable, shorten

_KEPT = 20

# TensorRT's own texts and what they mean for the user. Groups fill the sentence.
_KNOWN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), meaning)
    for pattern, meaning in (
        (
            r"expecting library version (\S+) got (\S+?)[,.]*(?:\s|$)",
            "the engine was built by TensorRT {1} and this is {0}: build it again here",
        ),
        (
            r"Current Version: (\d+), Serialized Engine Version: (\d+)",
            "the engine has serialization version {1} and this TensorRT reads {0}: build it "
            "again with the TensorRT that runs it",
        ),
        (
            r"expecting compute (\S+) got compute (\S+?)[,.]*(?:\s|$)",
            "the engine was built for compute capability {1} and this GPU has {0}: build it "
            "again on this device",
        ),
        (
            r"incompatible serialization version|magicTag",
            "the file is no engine of this TensorRT: build it again here",
        ),
        (
            r"cudaError(?:\S*\s|\s*)35\b|driver version is insufficient",
            "there is no NVIDIA driver, or it is older than this TensorRT needs: see nvidia-smi",
        ),
        (
            r"out of memory|OutOfMemory|cudaErrorMemoryAllocation",
            "the GPU has not enough memory: close other programs, or build the engine for a "
            "smaller batch",
        ),
        (
            r"Cuda Runtime \(([^)]*illegal memory access[^)]*)",
            "a kernel failed ({0}): start the program again, and report it with "
            "`runtime self-test`",
        ),
    )
)


class Messages:
    """What TensorRT says of one runtime: to its error recorder, and to the logger.

    TensorRT tells an error to the recorder where one is set and to the logger
    otherwise, so both are asked.
    """

    def __init__(self, logged: log.Messages) -> None:
        self._logged = logged
        self._mark = logged.mark()
        self.recorded: list[tuple[Any, str]] = []
        """Code and text of what the recorder was told."""

    def clear(self) -> None:
        """Forget what was said: it belongs to an earlier call."""
        self.recorded.clear()
        self._mark = self._logged.mark()

    def reason(self) -> str:
        """The errors since `clear` as one clause, the known ones translated."""
        texts = [text for _, text in self.recorded] + list(self._logged.errors(self._mark))
        self.clear()
        return explain(texts)


def explain(texts: Sequence[str]) -> str:
    """One clause for what TensorRT said; a known cause wins over the order of the messages."""
    for pattern, meaning in _KNOWN:
        for text in texts:
            found = pattern.search(text)
            if found is not None:
                groups = (printable(shorten(group, 80)) for group in found.groups())
                return meaning.format(*groups)
    if not texts:
        return "TensorRT gave no reason"
    return printable(shorten(" ".join(texts[0].split()), 300)).rstrip(".")


def error_recorder(trt: Any, messages: Messages) -> Any | None:
    """An `IErrorRecorder` that fills `messages`; None where this TensorRT has no such class."""
    base: Any = getattr(trt, "IErrorRecorder", None)
    if base is None:
        return None

    class Recorder(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def num_errors(self) -> int:
            return len(messages.recorded)

        def get_error_code(self, index: int) -> Any:
            return messages.recorded[index][0]

        def get_error_desc(self, index: int) -> str:
            return messages.recorded[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            messages.recorded.clear()

        def report_error(self, code: Any, text: str) -> bool:
            # Of a flood the first errors tell the cause.
            if len(messages.recorded) < _KEPT:
                messages.recorded.append((code, str(text)))
            return False

    return Recorder()
