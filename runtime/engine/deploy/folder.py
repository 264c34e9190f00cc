"""A folder that appears as a whole, with the model in it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foldcam.runtime.contract.external_data import checked_places
from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import user_errors_for
from foldcam.runtime.system.text import printable

MARK, LABELS = "README.md", "labels.txt"
_FIRST_LINE = "<!-- Written by `runtime deploy`, which replaces this folder. -->"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; it takes that name when the block succeeds.

    One that an earlier deployment wrote is replaced; anything else is left alone.
    """
    with user_errors_for(folder):
        if os.path.lexists(folder) and not _is_ours(folder):
            raise FoldcamError(
                f"{folder} exists and was not written by `runtime deploy`: choose another name."
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent)
        )
        try:
            made = temporary / folder.name
            made.mkdir()
            yield made
            if folder.exists():
                folder.rename(temporary / "before")
            made.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_readme(folder: Path, text: str) -> None:
    """The README, whose first line says that the folder is a deployment's."""
    (folder / MARK).write_text(f"{_FIRST_LINE}\n{text}", encoding="utf-8")


def write_labels(folder: Path, contract: Contract) -> None:
    """One line per row of the bank, if its rows have labels."""
    if contract.labels:
        lines = (printable(run.name) for run in contract.labels for _ in range(run.count))
        (folder / LABELS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def copy_model(model: Path, target: Path) -> None:
    """Copy an ONNX file, and the files beside it in which it has weights."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, target)
    for place in checked_places(model, read_header(model).external):
        copy = target.parent / place.relative_to(model.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place, copy)


def checked_name(name: str) -> str:
    """A model's name as both servers and file systems take it."""
    if not _NAME.fullmatch(name):
        raise FoldcamError(
            f"{name!r} is no name for a served model: give --name with letters, digits, and "
            "any of _ . - after the first."
        )
    return name


def _is_ours(folder: Path) -> bool:
    try:
        with (folder / MARK).open(encoding="utf-8", errors="replace") as stream:
            return not folder.is_symlink() and stream.readline().rstrip("\n") == _FIRST_LINE
    except OSError:
        return False
