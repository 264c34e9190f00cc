"""Text from files and devices, made safe to print."""

from __future__ import annotations

import re

# C0 and C1 controls move the cursor or set the terminal's title; lone surrogates
# cannot be encoded; bidirectional overrides make a line read as another.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text on one line, with everything that a terminal would obey written as an escape."""
    return _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def shorten(text: str, width: int) -> str:
    """The text cut to `width` characters, its end marked by three dots."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."
