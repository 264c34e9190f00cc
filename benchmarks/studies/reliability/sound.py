"""Whether a finished file is whole: each kind is opened and read to its end."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

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


def _film(path: Path) -> str | None:
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
    ".mkv": _film,
    ".mp4": _film,
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
