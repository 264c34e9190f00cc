"""Commands killed at random moments: no file under its final name is ever partial."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import util
from itertools import count
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.reliability import originals
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import sha256_of_file


def final_files(folder: Path) -> list[Path]:
    """Every file with a name of its own, those of hidden folders too; unfinished ones begin
    with a dot.
    """
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    )


def unfinished_files(folder: Path) -> list[Path]:
    """What a killed command left under a temporary name."""
    return [path for path in folder.rglob(".*") if path.is_file()]


def problem_of(path: Path) -> str | None:
    """Why a file is not whole; None if it is."""
    if path.suffix not in _READERS:
        return f"nobody knows how to read {path.suffix}"
    try:
        return _READERS[path.suffix](path)
    except (FoldcamError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def _json(path: Path) -> str | None:
    json.loads(path.read_text(encoding="utf-8"))
    return None


def _lines(path: Path) -> str | None:
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        return "its last line is not finished"
    for line in text.splitlines():
        json.loads(line)
    return None


def _model(path: Path) -> str | None:
    import numpy as np
    import onnx

    from foldcam.runtime.model.folded_model import FoldedModel

    onnx.checker.check_model(str(path))
    with FoldedModel.load(path, "cpu", threads=1) as model:
        model(np.full((48, 48, 3), 99, np.uint8))
    return None


def _safetensors(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  (no mapping)
                file.get_tensor(name)
    except SafetensorError as error:
        return str(error)
    return None


def _arrays(path: Path) -> str | None:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays:
                arrays[name]
    except zipfile.BadZipFile as error:
        return str(error)
    return None


def _page(path: Path) -> str | None:
    """A report: its last tag is closed, and so is every picture within it."""
    import cv2
    import numpy as np

    text = path.read_text(encoding="utf-8").rstrip()
    if not text.endswith(">"):
        return "its last tag is not closed"
    for encoded in re.findall(r"data:image/\w+;base64,([^\"']*)", text):
        data = np.frombuffer(base64.b64decode(encoded, validate=True), np.uint8)
        if cv2.imdecode(data, cv2.IMREAD_COLOR) is None:
            return "a picture in it is damaged"
    return None


def _parquet(path: Path) -> str | None:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return None if table.num_rows else "it has no row"


def _film_fault(path: Path) -> str | None:
    from foldcam.runtime.sources import open_source

    with open_source(file=str(path)) as source:
        frames = iter(source)
        seen = next(number for number in count() if next(frames, None) is None)
    if source.skipped:
        return source.skipped[0].reason
    return None if seen else "it has no frame"


def _picture(path: Path) -> str | None:
    from foldcam.runtime.images.files import read_image

    read_image(path)
    return None


_READERS: dict[str, Callable[[Path], str | None]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".onnx": _model,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".npz": _arrays,
    ".html": _page,
    ".mkv": _film_fault,
    ".mp4": _film_fault,
    ".jpg": _picture,
}


def same_as(reference: Path) -> Callable[[Path], str | None]:
    """For files that every run writes alike, such as plans: whether one equals another."""
    wanted = sha256_of_file(reference)

    def compare(path: Path) -> str | None:
        if sha256_of_file(path) == wanted:
            return None
        return "it differs from the one that an undisturbed run writes"

    return compare


SEED = 11
_KILLS = 50
_KILLS_SHORT = 2
_LIMIT_SECONDS = 300.0
_FILM_FRAMES = 600
_NAMES = {"runtime run", "foldcam export", "foldcam calibrate", "runtime build"}


@dataclass(frozen=True)
class Command:
    """What is killed."""

    name: str  # for people
    words: Sequence[str]  # of its command line
    alike: tuple[str, ...] = ()  # suffixes of outputs that every run writes byte by byte alike


@dataclass
class Figures:
    """Of one command."""

    kills: int = 0  # that met it alive
    finished: int = 0  # attempts that ended before they were killed
    files: int = 0  # finished files that were opened
    left: int = 0  # unfinished files that kills left behind
    partial: list[str] = field(default_factory=list)  # finished files that were not whole, and why
    seconds: float = 0.0  # an undisturbed run


def check(full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    """Kill every command with SIGKILL, again and again, and open what has a final name.

    Half of the moments are drawn from a whole run; the other half from the time after the
    first file appeared, where there is something to break. Every other attempt begins with the
    files of earlier ones.

    Args:
        full: 50 kills each, else 2, and not of `calibrate`, which takes the longest.
    """
    kills = _KILLS if full else _KILLS_SHORT
    out = folder / "out"
    commands = _commands(folder, out, full)
    figures: dict[str, Figures] = {}
    for place, command in enumerate(commands):

        def said(done: int, command: Command = command, place: int = place) -> None:
            progress(f"kills of {command.name}", place * kills + done, len(commands) * kills)

        figures[command.name] = _kill_often(command, out, kills, said)
    return {
        "passed": all(not each.partial and each.kills == kills for each in figures.values()),
        "seed": SEED,
        "kills": sum(each.kills for each in figures.values()),
        "commands": {name: vars(each) for name, each in figures.items()},
        "left_out": sorted(_NAMES - figures.keys()),
    }


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What and how much."""
    return [
        (
            f"SIGKILL: {name}",
            f"{figures['kills']} kills, {figures['files']} finished files opened, "
            f"{len(figures['partial'])} of them partial",
        )
        for name, figures in document["commands"].items()
    ]


def _kill_often(
    command: Command, out: Path, kills: int, progress: Callable[[int], None]
) -> Figures:
    figures = Figures()
    appeared = _undisturbed(command, out, figures)
    compare = {
        path.name: same_as(_kept(path, out.parent / "reference" / command.name))
        for path in final_files(out)
        if path.suffix in command.alike
    }
    generator = random.Random(f"{SEED}:{command.name}")
    # A command may be over before its moment comes; then there is another attempt.
    for attempt in range(4 * kills):
        if figures.kills == kills:
            break
        progress(figures.kills)
        if attempt % 4 < 2:
            shutil.rmtree(out, ignore_errors=True)
        late = attempt % 2 == 1
        span = figures.seconds - appeared if late else figures.seconds
        if _killed(command, out, generator.uniform(0.0, span), after_file=late):
            figures.kills += 1
        else:
            figures.finished += 1
        for path in final_files(out):
            figures.files += 1
            differs = compare.get(path.name)
            problem = problem_of(path) if differs is None else differs(path)
            if problem is not None:
                figures.partial.append(f"{path.relative_to(out)}: {problem}")
        figures.left += len(unfinished_files(out))
    # What kills left behind must not be in the way of the next run.
    _undisturbed(command, out, Figures())
    shutil.rmtree(out, ignore_errors=True)
    return figures


def _undisturbed(command: Command, out: Path, figures: Figures) -> float:
    """Run to the end; seconds after which the first file was seen."""
    begun = time.monotonic()
    appeared: float | None = None
    before = _all_files(out)
    process = _start(command, stderr=subprocess.PIPE)
    while process.poll() is None:
        if appeared is None and _all_files(out) - before:
            appeared = time.monotonic() - begun
        if time.monotonic() - begun > _LIMIT_SECONDS:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.002)
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace").strip()
    process.stderr.close()
    if process.returncode != 0 or not final_files(out):
        raise FoldcamError(f"{command.name} does not run undisturbed: {said[-300:]}")
    figures.seconds = time.monotonic() - begun
    return figures.seconds if appeared is None else appeared


def _killed(command: Command, out: Path, wait: float, after_file: bool) -> bool:
    """Start, wait, kill with all its children; False if it ended before."""
    before = _all_files(out)
    process = _start(command)
    begun = time.monotonic()
    seen = not after_file
    while process.poll() is None:
        now = time.monotonic()
        if not seen and _all_files(out) - before:
            seen, begun = True, now
        if seen and now - begun >= wait:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return process.returncode == -signal.SIGKILL
        if now - begun > _LIMIT_SECONDS:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.001)
    return False


def _start(command: Command, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    # A group of its own, so that children die with it as in a power failure.
    return subprocess.Popen(
        list(command.words), stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
    )


def _all_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()} if folder.is_dir() else set()


def _kept(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(path, folder / path.name))


def _commands(folder: Path, out: Path, full: bool) -> list[Command]:
    model = originals.folded_model(folder)
    pictures = originals.dataset(folder / "more", images_each=16)
    film = _film(folder / "film.avi", _FILM_FRAMES if full else _FILM_FRAMES // 3)
    runtime = [sys.executable, "-m", "foldcam.runtime"]
    foldcam = [sys.executable, "-m", "foldcam"]
    export = originals.export_command(folder / "images", out / "model.onnx")
    commands = [
        Command(
            "runtime run",
            [*runtime, "run", str(model), "--file", str(film), "--quiet", "--threads", "1",
             "--save", str(out / "videos"), "--jsonl", str(out / "lines.jsonl"),
             "--parquet", str(out / "rows.parquet"), "--images", str(out / "pictures"),
             "--images-every", "10", "--rotate-mb", "0.2", "--events", str(out / "events"),
             "--event", "name=any,similarity_above=-1,cooldown_seconds=1"],
        ),
        Command("foldcam export", [*export, "--bank", str(out / "bank.safetensors")]),
    ]  # fmt: skip
    if full:
        calibrate = [
            *foldcam, "calibrate", str(model), "--images", str(pictures),
            "--out", str(out / "int8.onnx"), "--recall-lost", "100", "--heatmap-mean", "-1",
            "--heatmap-p5", "-1", "--keep-float", "none",
        ]  # fmt: skip
        commands.append(Command("foldcam calibrate", calibrate))
    if _has_rtx():
        build = [*runtime, "build", str(model), "--flavour", "rtx"]
        commands.append(
            Command("runtime build", [*build, "--out", str(out / "model.engine")], (".engine",))
        )
    return commands


def _has_rtx() -> bool:
    return util.find_spec("tensorrt_rtx") is not None


def _film(path: Path, frames: int) -> Path:
    import cv2
    import numpy as np

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (160, 120))
    generator = np.random.default_rng(SEED)
    for _ in range(frames):
        small = generator.integers(0, 256, (12, 16, 3), np.uint8)
        writer.write(cv2.resize(small, (160, 120), interpolation=cv2.INTER_NEAREST))
    writer.release()
    return path
