"""A line of text in any script as a mask, made by what this machine has.

OpenCV 5 carries a font for most scripts that are written from left to right, Chinese, Japanese and
Korean among them, and needs nothing else. Pillow (extra `fonts`) with the system's fonts draws the
others, joins Arabic letters and orders what is written from right to left; with JetPack's
OpenCV 4, it draws everything but ASCII. What neither can draw is written in Latin letters where
Unicode names them (`é` as `e`), else as its code point (`U+732B`), and the log says so once.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.system.logs import log
from foldcam.runtime.system.text import printable

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Mask = npt.NDArray[np.uint8]
_ASCENT, _LINE = 1.1, 1.45  # of the size: from a line's top to its letters' foot, and to its bottom
_HERSHEY = cv2.FONT_HERSHEY_SIMPLEX
_HERSHEY_SIZE = 30.0  # pixels of a line's size at scale 1
_MISSING = "\ue000"  # no font has a letter for it
_lock = threading.Lock()  # OpenCV's font keeps what it has drawn, and may be asked by one thread
_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_SUFFIXES = (".ttf", ".otf", ".ttc")
_MOST_FILES = 400
_TIMEOUT_S = 5.0
_ASCII = ",.09AZaz"
_NO_LETTER = "\uffff"  # no letter, for which a font draws its sign for a missing one


def line_height(size: int) -> int:
    """Pixels of a line of text."""
    return round(_LINE * size)


@lru_cache(maxsize=512)
def line_mask(text: str, size: int) -> Mask:
    """One line of text.

    Returns:
        `uint8 [line_height(size), width]`, 255 where letters are; read-only.
    """
    mask = _drawn(printable(text), size)
    columns = np.flatnonzero(mask.any(axis=0))
    mask = mask[:, : columns[-1] + 1 if columns.size else 0]
    mask.flags.writeable = False
    return mask


def _drawn(text: str, size: int) -> Mask:
    text = unicodedata.normalize("NFC", text)
    if not _needs_shaping(text):
        drawn = _by_opencv_5(text, size)
        if drawn is not None:
            return drawn
    if text.isascii():
        return _by_hershey(text, size)
    # Each letter once that is not ASCII: texts of one label and many numbers share a font.
    font = font_for("".join(sorted({letter for letter in text if not letter.isascii()})))
    if font is None:
        return _drawn(_replaced(text), size)
    if font.has(text):
        return font.mask(text, size, line_height(size), round(_ASCENT * size))
    # A font of one script may lack digits: what stands before and after its letters is drawn apart.
    before, middle, after = re.findall(r"^([ -~]*)(.*[^ -~])([ -~]*)$", text)[0]
    if not font.has(middle):
        return _drawn(_replaced(text), size)
    shaped = font.mask(middle, size, line_height(size), round(_ASCENT * size))
    return np.hstack([_drawn(before, size), shaped, _drawn(after, size)])


def _needs_shaping(text: str) -> bool:
    """Whether letters join, stack or run from right to left, which OpenCV's font does not do."""
    return any(
        unicodedata.bidirectional(letter) in ("R", "AL", "AN")
        or unicodedata.category(letter) in ("Mn", "Mc")
        for letter in text
    )


def _replaced(text: str) -> str:
    """The text in ASCII and what OpenCV's font has."""
    letters = []
    for letter in text:
        if letter.isascii() or (not _needs_shaping(letter) and _opencv_5_has(letter)):
            letters.append(letter)
            continue
        parts = unicodedata.normalize("NFKD", letter)
        plain = "".join(part for part in parts if not unicodedata.combining(part))
        letters.append(plain if plain and plain.isascii() else f"U+{ord(letter):04X} ")
        _say(letter, letters[-1].strip())
    return "".join(letters).strip()


@lru_cache(maxsize=512)
def _say(letter: str, written: str) -> None:
    log.warning(
        "the letter %r is written as %s in pictures, for want of a font: install "
        "'foldcam[fonts]' and a font that has it (Chinese, Japanese and Korean: fonts-noto-cjk)",
        letter,
        written,
    )


@cache
def _opencv_font() -> Any:
    """OpenCV 5's own font; None for OpenCV 4, and where it was built without."""
    face = getattr(cv2, "FontFace", None)
    if face is None:
        return None
    try:
        return face("uni")
    except cv2.error:
        return None


def _by_opencv_5(text: str, size: int) -> Mask | None:
    """None where the font is not there or lacks a letter."""
    if _opencv_font() is None or not all(map(_opencv_5_has, set(text))):
        return None
    return _written(text, size)


@lru_cache(maxsize=4096)
def _opencv_5_has(letter: str) -> bool:
    if letter.isascii() or _opencv_font() is None:
        return letter.isascii()
    # It draws a sign of its own for what it does not have.
    return not np.array_equal(_written(letter, 16), _written(_MISSING, 16))


def _written(text: str, size: int) -> Mask:
    mask = np.zeros((line_height(size), 2 * size * (len(text) + 1)), np.uint8)
    foot = (1, round(_ASCENT * size))
    with _lock:
        # Types of OpenCV's wheels do not know this signature.
        cast(Any, cv2).putText(mask, text, foot, 255, _opencv_font(), size)
    return mask


def _by_hershey(text: str, size: int) -> Mask:
    scale = size / _HERSHEY_SIZE
    stroke = max(1, round(1.6 * scale))
    width = cv2.getTextSize(text, _HERSHEY, scale, stroke)[0][0]
    mask = np.zeros((line_height(size), width + 4), np.uint8)
    foot = (1, round(_ASCENT * size))
    cv2.putText(mask, text, foot, _HERSHEY, scale, 255, stroke, cv2.LINE_AA)
    return mask


class ShapedFont:
    """A font file, whose text Pillow orders and joins (by Raqm, where Pillow has it)."""

    def __init__(self, path: str, index: int) -> None:
        self._path, self._index = path, index
        self._small = self._at(16)

    def has(self, text: str) -> bool:
        """Whether it has a letter for each one in the text."""
        missing = self._glyph(_NO_LETTER)
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
