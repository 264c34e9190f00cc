"""From a folded model to an engine: one way for every TensorRT."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import METADATA_KEY, Contract
from foldcam.runtime.contract.tensors import bank_lengths, check_tensors
from foldcam.runtime.engine import ENGINE_SUFFIXES
from foldcam.runtime.engine.device import DeviceFacts, find_gpu, find_host
from foldcam.runtime.engine.flavours import Flavour
from foldcam.runtime.engine.log import OwnedLogger, owned_logger
from foldcam.runtime.engine.manifest import FileRecord, Manifest, Target, manifest_path
from foldcam.runtime.engine.network import compute_capabilities, configure, parse_network
from foldcam.runtime.engine.options import BuildOptions
from foldcam.runtime.engine.precision import hold_to, types_of
from foldcam.runtime.engine.progress import (
    BuildAbandonedError,
    BuildLine,
    BuildState,
    QuietLine,
    make_monitor,
)
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, cache_root, user_errors_for
from foldcam.runtime.system.stopping import StopSignal
from foldcam.runtime.system.text import printable
from foldcam.runtime.system.version import version

_POLL_S = 0.05
MAX_BYTES = 512 << 20


@dataclass
class Built:
    """A finished build."""

    engine: Path
    manifest: Manifest
    notes: list[str] = field(default_factory=list)
    accepted_wrong: str | None = None


@dataclass(frozen=True)
class Trial:
    """What came of running a plan before it is written.

    Attributes:
        note: why it could not be tried, as a clause; empty if it was.
        accepted_wrong: what of its answers is wrong and was accepted; None where nothing is.
    """

    note: str
    accepted_wrong: str | None = None


Try = Callable[[bytes, Contract, Target], Trial]


def engine_path(model: Path) -> Path:
    """Where the engine of a model goes by default: `birds.engine` for `birds.onnx`."""
    return model.with_suffix(".engine")


def build_engine(
    model: Path,
    out: Path,
    options: BuildOptions,
    flavour: Flavour,
    *,
    facts: DeviceFacts | None = None,
    line: BuildLine | None = None,
    trial: Try | None = None,
) -> Built:
    """Compile a folded model, and write the plan and its manifest.

    Both files appear complete or not at all. While the builder works, Ctrl-C (or SIGTERM)
    asks it to stop at its next step, and a second one leaves it behind.

    Args:
        out: where the plan goes; the manifest goes beside it as `<out>.json`.
        flavour: the TensorRT to build with.
        facts: this machine; None has a look.
        line: where progress is shown; None shows nothing.
        trial: runs the plan before it is written, and may refuse it.
    """
    facts = facts or DeviceFacts(find_gpu(), find_host(), {flavour.name: flavour.version})
    contract, metadata, data = _read(model)
    _check_output(model, out, len(data))
    work = _Work(model, data, contract, metadata, options, flavour, facts)
    line = line or QuietLine()
    line.say(f"compiling {model} with {flavour.title}")
    begin = time.monotonic()
    compiled = _interruptible(work, line)
    manifest = _manifest(work, compiled, out, time.monotonic() - begin)
    tried = Trial("") if trial is None else trial(compiled.plan, contract, manifest.target)
    # The manifest is renamed last: with an older one a new plan is refused, never trusted.
    with atomic_path(manifest_path(out)) as described, atomic_path(out) as plan:
        plan.write_bytes(compiled.plan)
        described.write_text(manifest.to_json(), encoding="utf-8")
    notes = [*compiled.notes, *([tried.note] if tried.note else [])]
    return Built(out, manifest, notes, tried.accepted_wrong)


@dataclass(frozen=True)
class _Work:
    model: Path
    data: bytes
    contract: Contract
    metadata: dict[str, Any]
    options: BuildOptions
    flavour: Flavour
    facts: DeviceFacts


@dataclass
class _Compiled:
    plan: bytes
    inputs: Any
    outputs: Any
    precision: Any
    fallback: tuple[str, ...]
    notes: list[str]


def _read(model: Path) -> tuple[Contract, dict[str, Any], bytes]:
    """Contract, metadata as they are (with what this version does not read), and bytes."""
    contract = read_contract(model)
    header = read_header(model)
    check_tensors(contract, header.inputs, header.outputs, str(model))
    if header.external:
        # The parser gets bytes, and would look for other files in the working directory.
        raise FoldcamError(
            f"{model} has weights in other files ({printable(header.external[0].location)}) and an "
            "engine is built from one file: save it as one on the workstation, with "
            "onnx.save_model(onnx.load_model(FILE), OUT)."
        )
    metadata: dict[str, Any] = json.loads(header.metadata[METADATA_KEY])
    try:
        return contract, metadata, model.read_bytes()
    except OSError as error:
        raise FoldcamError(f"{model} cannot be read: {error.strerror or error}.") from error


def _check_output(model: Path, out: Path, size: int) -> None:
    """Before minutes are spent: can the plan be written where it is wanted."""
    if out.suffix.lower() == ".onnx" or (out.exists() and out.samefile(model)):
        raise FoldcamError(f"{out} is where a model belongs: name the engine birds.engine or so.")
    if out.suffix.lower() not in ENGINE_SUFFIXES:
        # The other commands know an engine by its suffix, and a slip must not cost a photograph.
        raise FoldcamError(
            f"{out} is no name of an engine: give one that ends in {', '.join(ENGINE_SUFFIXES)}."
        )
    with user_errors_for(out):
        if out.is_dir():
            raise FoldcamError(f"{out} is a folder: give the name of a file.")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
        # A plan holds the model's weights, so it is hardly ever smaller.
        if shutil.disk_usage(out.parent).free < size:
            raise FoldcamError(
                f"No space left on the disk of {out.parent}: free some, or write elsewhere."
            )


def _interruptible(work: _Work, line: BuildLine) -> _Compiled:
    """Run the builder in a thread of its own, so that this one can hear Ctrl-C.

    The builder gives the interpreter away while it works, but a signal only reaches
    Python's main thread between two of its own steps.
    """
    state, finished = BuildState(), threading.Event()
    done: list[_Compiled] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            done.append(_compile(work, state))
        except BaseException as error:
            failed.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=target, name="engine-builder", daemon=True)
    try:
        with StopSignal() as stop:
            thread.start()
            # Not thread.join: interrupted, it takes a thread that runs for one that ended.
            while not finished.wait(_POLL_S):
                line.tick(state)
                if stop.requested and not state.cancelled:
                    state.cancel()
                    line.say("stopping at the builder's next step; Ctrl-C again leaves at once")
    except KeyboardInterrupt:
        raise BuildAbandonedError from None
    finally:
        line.clear()
    if stop.requested:
        raise KeyboardInterrupt
    if failed:
        raise failed[0]
    return done[0]


def _compile(work: _Work, state: BuildState) -> _Compiled:
    flavour, options, gpu = work.flavour, work.options, work.facts.gpu
    logger = owned_logger(flavour)
    parsed = parse_network(work.data, str(work.model), flavour, logger)
    check_tensors(work.contract, parsed.inputs, parsed.outputs, f"{work.model} as parsed")
    promised = work.metadata.get("precision")
    types = types_of(parsed.network, flavour, promised, str(work.model))
    config, fallback = configure(parsed, options, types, flavour, gpu, bank_lengths(work.contract))
    notes = hold_to(types, parsed.network, config, parsed.builder, flavour)
    keep_cache = _timing_cache(work, config, notes)
    # TensorRT holds a bare pointer to it.
    monitor = make_monitor(flavour.module, state)
    if monitor is not None:
        config.progress_monitor = monitor
    mark = logger.messages.mark()
    serialized = None
    if not state.cancelled:
        serialized = parsed.builder.build_serialized_network(parsed.network, config)
    if serialized is None:
        raise FoldcamError(_failure(work, logger, mark))
    keep_cache()
    plan = bytes(serialized)
    return _Compiled(plan, parsed.inputs, parsed.outputs, types.precision, fallback, notes)


def _failure(work: _Work, logger: OwnedLogger, mark: int) -> str:
    reason = logger.messages.reason(mark)
    low = reason.lower()
    if "memory" in low or "workspace" in low:
        remedy = "close other programs, or try a smaller --workspace or --batch"
    else:
        remedy = f"what would avoid it: foldcam check {work.model}"
    return f"{work.model} cannot be compiled by {work.flavour.title}: {reason}; {remedy}."


def _timing_cache(work: _Work, config: Any, notes: list[str]) -> Callable[[], None]:
    """Give the builder the kept measurements; the answer keeps those of this build."""
    gpu, flavour = work.facts.gpu, work.flavour
    # TensorRT-RTX measures nothing, and would look for a GPU if it were asked.
    if not work.options.timing_cache or flavour.rtx or gpu is None:
        return lambda: None
    path = cache_path(flavour, gpu.name, gpu.compute_capability)
    content, problem = load_cache(path)
    if problem:
        notes.append(problem)
    cache = config.create_timing_cache(content)
    if not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)

    def keep() -> None:
        measured = config.get_timing_cache()
        problem = "" if measured is None else store_cache(path, bytes(measured.serialize()))
        if problem:
            notes.append(problem)

    return keep


def _manifest(work: _Work, compiled: _Compiled, out: Path, seconds: float) -> Manifest:
    gpu, flavour = work.facts.gpu, work.flavour
    capabilities, and_later = compute_capabilities(work.options, flavour, gpu)
    return Manifest(
        plan=_record(out.name, compiled.plan),
        model=_record(work.model.name, work.data),
        flavour=flavour.name,
        version=flavour.version,
        target=Target(gpu.name if gpu else "", capabilities, and_later),
        platform=work.facts.host,
        precision=compiled.precision,
        typing="strong" if flavour.strongly_typed else "weak",
        options=work.options,
        inputs=compiled.inputs,
        outputs=compiled.outputs,
        dla_fallback=compiled.fallback,
        build_seconds=round(seconds, 3),
        foldcam=version(),
        metadata=work.metadata,
    )


def _record(name: str, content: bytes) -> FileRecord:
    return FileRecord(name, len(content), hashlib.sha256(content).hexdigest())


def cache_path(
    flavour: Flavour,
    device: str,
    compute_capability: str,
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """Where the cache of a flavour, its version and a GPU is kept."""
    words = f"{flavour.name}-{flavour.version}-sm{compute_capability}-{device}"
    return cache_root(environment) / "timing" / (re.sub(r"[^A-Za-z0-9.]+", "-", words) + ".cache")


def load_cache(path: Path) -> tuple[bytes, str]:
    """The cache's bytes, and why it is not used (empty if it is, or if there is none)."""
    try:
        folder, file = path.parent.stat(), path.stat()
    except OSError:
        return b"", ""
    for what, facts in ((path.parent, folder), (path, file)):
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or facts.st_uid not in (0, os.getuid()):
            return b"", f"the timing cache is not used: others can write {what}"
    if file.st_size > MAX_BYTES:
        return b"", f"the timing cache is not used: {path} is {file.st_size >> 20} MiB"
    try:
        return path.read_bytes(), ""
    except OSError as error:
        return b"", f"the timing cache is not used: {path}: {error.strerror}"


def store_cache(path: Path, content: bytes) -> str:
    """Keep the cache; returns why it could not be kept, empty if it was."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        path.chmod(0o600)
    except (FoldcamError, OSError) as error:
        # The engine is built: a cache that cannot be kept costs time and nothing else.
        return f"the timing cache is not kept: {error}"
    return ""
