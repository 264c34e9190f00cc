"""Fonts of this machine, for Pillow: which of them has all letters of a text."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_SUFFIXES = (".ttf", ".otf", ".ttc")
_MOST_FILES = 400
_TIMEOUT_S = 5.0
_ASCII = ",.09AZaz"
_MISSING = "\uffff"  # no letter, for which a font draws its sign for a missing one


class ShapedFont:
    """A font file, whose text Pillow orders and joins (by Raqm, where Pillow has it)."""

    def __init__(self, path: str, index: int) -> None:
        self._path, self._index = path, index
        self._small = self._at(16)

    def has(self, text: str) -> bool:
        """Whether it has a letter for each one in the text."""
        missing = self._glyph(_MISSING)
        return all(self._glyph(letter) != missing for letter in set(text) if not letter.isspace())

    def mask(self, text: str, size: int, height: int, foot: int) -> npt.NDArray[np.uint8]:
        """The text, `uint8 [height, width]`, its letters standing on row `foot`."""
        from PIL import Image, ImageDraw

        font = self._at(size)
        width = int(font.getlength(text)) + size
        canvas = Image.new("L", (width, height))
        ImageDraw.Draw(canvas).text((1, foot), text, fill=255, font=font, anchor="ls")
        return np.array(canvas, np.uint8)

    def _at(self, size: int) -> FreeTypeFont:
        from PIL import ImageFont

        return ImageFont.truetype(self._path, size, self._index)

    def _glyph(self, letter: str) -> tuple[tuple[float, float, float, float], bytes]:
        return self._small.getbbox(letter), bytes(self._small.getmask(letter))


@lru_cache(maxsize=512)
def font_for(letters: str) -> ShapedFont | None:
    """A font that has all of these letters, and if possible ASCII too.

    None without one, and without Pillow.
    """
    try:
        import PIL.ImageFont  # noqa: F401
    except ImportError:
        return None
    for wanted in (letters + _ASCII, letters):
        for path, index in _candidates(wanted):
            try:
                font = _opened(path, index)
                if font.has(wanted):
                    return font
            except OSError:
                continue  # a bitmap font or a damaged one
    return None


@lru_cache(maxsize=32)
def _opened(path: str, index: int) -> ShapedFont:
    return ShapedFont(path, index)


def _candidates(letters: str) -> list[tuple[str, int]]:
    """What fontconfig takes for these letters, or all font files where it is not installed."""
    program = shutil.which("fc-match")
    if program is None:
        return [(path, 0) for path in _files()]
    matched = _by_fontconfig(program, letters)
    return [] if matched is None else [matched]


def _by_fontconfig(program: str, letters: str) -> tuple[str, int] | None:
    charset = " ".join(f"{ord(letter):x}" for letter in letters)
    command = [program, "-f", "%{file}\n%{index}", f"sans-serif:charset={charset}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    path, _, index = done.stdout.partition("\n")
    return (path, int(index) & 0xFFFF) if path and index.isdigit() else None


@lru_cache(maxsize=1)
def _files() -> tuple[str, ...]:
    """Font files, upright ones without serifs first."""
    found = [
        path
        for folder in _FOLDERS
        for path in sorted(Path(folder).expanduser().rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]

    def plain(path: Path) -> tuple[bool, bool, int]:
        name = path.stem.lower()
        styled = any(word in name for word in ("bold", "italic", "oblique", "mono", "light"))
        return "sans" not in name, styled, len(name)

    return tuple(str(path) for path in sorted(found, key=plain)[:_MOST_FILES])
