"""The program `runtime`, called in this process as one of its own would run it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from foldcam.runtime.system import redaction, standard_streams, stopping
from foldcam.runtime.system.command import flushed, prepared, status_of


def call(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Status, standard output and standard error of `runtime ARGUMENTS` in a folder."""
    from foldcam.runtime.cli.runtime import app

    with (
        TemporaryFile("w+", encoding="utf-8") as out,
        TemporaryFile("w+", encoding="utf-8") as err,
    ):
        with _as_in_a_process(arguments, folder, environment), _streams(out.fileno(), err.fileno()):
            try:
                standard_streams.repair_streams()
                if "--json" in arguments:
                    standard_streams.claim_output()
                status = flushed(status_of(lambda: prepared(app)(prog_name="runtime")))
            except BaseException:
                traceback.print_exc()
                status = 1
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, out.read(), err.read())


@contextmanager
def _as_in_a_process(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """Arguments, folder, environment and import path, and nothing that an earlier call left."""
    log, modules = logging.getLogger("foldcam"), set(sys.modules)
    before = log.level, log.propagate, list(log.handlers)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["runtime", *arguments])
        patched.setattr(sys, "path", [str(folder), *sys.path])
        for name in os.environ.keys() - environment.keys():
            patched.delenv(name)
        for name, value in environment.items():
            patched.setenv(name, value)
        patched.chdir(folder)
        patched.setattr(redaction, "_known", redaction._Known())
        patched.setattr(stopping, "_caught", [])
        handlers = stopping.install(stopping.raise_stopped)
        try:
            yield
        finally:
            stopping.restore(handlers)
            log.setLevel(before[0])
            log.propagate, log.handlers[:] = before[1:]
            for name in set(sys.modules) - modules:
                origin = getattr(sys.modules[name], "__file__", None) or ""
                if Path(origin).is_relative_to(folder):
                    del sys.modules[name]


@contextmanager
def _streams(out: int, err: int) -> Iterator[None]:
    """Standard output and standard error of this process and its children in two files."""
    with ExitStack() as ends, pytest.MonkeyPatch.context() as patched:
        for number, file in ((1, out), (2, err)):
            kept = os.dup(number)
            ends.callback(os.close, kept)
            ends.callback(os.dup2, kept, number)
            os.dup2(file, number)
        stream = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        ends.callback(stream.flush)
        patched.setattr(sys, "stdout", stream)
        # `repair_streams` and `claim_output` set these.
        patched.setattr(sys, "stderr", sys.stderr)
        patched.setattr(standard_streams, "_ours", [])
        patched.setattr(standard_streams, "_claimed", [])
        yield
        for claimed in standard_streams._claimed:
            claimed.close()
