"""Text from files and devices, made safe to print."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# C0 and C1 controls move the cursor or set the terminal's title; lone surrogates
# cannot be encoded; two separators end a line; bidirectional overrides make it read as another.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text on one line, with everything that a terminal would obey written as an escape."""
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def number_text(value: float) -> str:
    """A number to read: four significant digits, thousands separated, such as `512,300`."""
    if not math.isfinite(value) or value == 0.0:
        return f"{value:g}"
    if not 1e-5 <= abs(value) < 1e15:
        return f"{value:.3e}"
    rounded = float(f"{value:.4g}")
    decimals = max(0, 3 - math.floor(math.log10(abs(rounded))))
    text = f"{rounded:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def quantity(count: int, noun: str) -> str:
    """How many of something: `1 row`, `1200 rows`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose columns begin below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def shorten(text: str, width: int) -> str:
    """The text cut to `width` characters, its end marked by three dots."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."


def reason_of(error: Exception) -> str:
    """The first line of an exception's text, in the form of a clause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(shorten(lines[0] if lines else type(error).__name__, 300)).rstrip(".")
