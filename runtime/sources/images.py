"""Photographs: one, a folder of them, or a pattern."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from foldcam.runtime.images.files import read_image
from foldcam.runtime.images.format import IMAGE_SUFFIXES
from foldcam.runtime.images.listing import LeftOut, counted, in_words, sort_out, sort_out_files
from foldcam.runtime.sources.base import Frame, Skip, Source
from foldcam.runtime.system.errors import FoldcamError

_MAGIC = frozenset("*?[")


class ImageSource(Source):
    """Photographs in a fixed order. One that cannot be read is skipped and remembered."""

    stills = True

    def __init__(
        self, paths: Sequence[Path], root: Path, name: str, left_out: Sequence[LeftOut] = ()
    ) -> None:
        super().__init__(name, root.name or "images")
        self._paths = list(paths)
        self._root = root
        self.frames = len(self._paths)
        self.left_out = list(left_out)

    @classmethod
    def from_file(cls, path: Path) -> ImageSource:
        """One photograph."""
        return cls([path], path.parent, str(path))

    @classmethod
    def from_folder(cls, folder: Path) -> ImageSource:
        """Every photograph below a folder."""
        found = sort_out(folder)
        left_out = found.without_films()
        if not found.pictures:
            raise FoldcamError(
                f"{folder} holds no image (looked for {', '.join(IMAGE_SUFFIXES)}, in its "
                f"folders too){_besides(left_out)}."
            )
        return cls(found.pictures, folder, str(folder), left_out)

    @classmethod
    def from_pattern(cls, pattern: str) -> ImageSource:
        """Every picture that a pattern such as `photos/**/*.jpg` names."""
        paths = [Path(found) for found in glob.glob(pattern, recursive=True)]  # noqa: PTH207
        if "**" in pattern:
            # It names the folders beside what lies in them.
            paths = [path for path in paths if not path.is_dir()]
        if not paths:
            raise FoldcamError(f"No file matches {pattern!r}.")
        found = sort_out_files(paths)
        left_out = found.without_films()
        if not found.pictures:
            raise FoldcamError(f"No picture matches {pattern!r}{_besides(left_out)}.")
        return cls(found.pictures, pattern_root(pattern), pattern, left_out)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for path in self._paths:
            if self._stopped.is_set():
                return
            try:
                image = read_image(path)
            except FoldcamError as error:
                self.skipped.append(Skip(str(path), reason_without_path(str(error), path)))
                continue
            yield Frame(image, index, str(path), self._name_of(path), 0.0, time.monotonic())
            index += 1

    def _name_of(self, path: Path) -> PurePath:
        try:
            return PurePath(path.relative_to(self._root))
        except ValueError:
            return PurePath(path.name)


def _besides(left_out: Sequence[LeftOut]) -> str:
    """What was there instead, as the end of a sentence."""
    return f"; left out: {'; '.join(in_words(counted(left_out)))}" if left_out else ""


def is_pattern(text: str) -> bool:
    """Whether the text holds one of `*?[`."""
    return not _MAGIC.isdisjoint(text)


def pattern_root(pattern: str) -> Path:
    """The part of a pattern before its first folder with a wildcard."""
    fixed: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if is_pattern(part):
            break
        fixed.append(part)
    return Path(*fixed) if fixed else Path()


def reason_without_path(message: str, path: Path) -> str:
    """The complaint as a clause, for lists that name the file already."""
    text = message.removeprefix(f"{path}").lstrip(": ").removesuffix(".")
    return text.removeprefix("is ") if text.startswith("is ") else text
