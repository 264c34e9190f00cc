"""The names of a classifier's classes, from the files in which they are handed around."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.strict_json import parse_json

_MOST_BYTES = 64 << 20


def read_class_names(path: Path) -> list[str]:
    """The names in the order of their classes.

    Args:
        path: a text file with one name per line; or JSON, as a list of names, or with names by
            number, `{"0": "tench"}`, or `{"0": ["n01440764", "tench"]}` as ImageNet's index has
            them, of which the last is taken.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise FoldcamError(f"--classes {path}: the file is larger than {_MOST_BYTES >> 20} MB.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FoldcamError(f"--classes {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise FoldcamError(f"--classes {path}: it is not UTF-8 text.") from error
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{"):
        names = _from_json(text, path)
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    for number, name in enumerate(names):
        if not name:
            raise FoldcamError(f"--classes {path}: class {number} has no name.")
    if not names:
        raise FoldcamError(f"--classes {path}: the file names no class.")
    return names


def class_names(path: Path | None, classes: int) -> list[str]:
    """A name for each class: those of a file, or their numbers.

    Args:
        path: the file, or None.
    """
    if path is None:
        return [str(number) for number in range(classes)]
    names = read_class_names(path)
    if len(names) != classes:
        raise FoldcamError(
            f"--classes {path} names {len(names)} classes, and the network has {classes} scores: "
            "give one name per score, in their order."
        )
    return names


def _from_json(text: str, path: Path) -> list[str]:
    try:
        found: Any = parse_json(text)
    except ValueError as error:
        raise FoldcamError(f"--classes {path}: it is not JSON ({error}).") from error
    if isinstance(found, Mapping):
        numbers = [str(number) for number in range(len(found))]
        missing = next((number for number in numbers if number not in found), None)
        if missing is not None:
            raise FoldcamError(
                f"--classes {path}: it has {len(found)} entries and none for class {missing!r}."
            )
        found = [found[number] for number in numbers]
    names = [each[-1] if isinstance(each, list) and each else each for each in found]
    wrong = next((at for at, name in enumerate(names) if not isinstance(name, str)), None)
    if wrong is not None:
        raise FoldcamError(f"--classes {path}: the name of class {wrong} is not text.")
    return [name.strip() for name in names]
