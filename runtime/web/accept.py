"""The header `Accept`: which of several forms of an answer a client likes best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

_Name = TypeVar("_Name", bound=str)


def preferred(accept: str, forms: Mapping[_Name, str]) -> _Name:
    """The form with the highest quality, as RFC 9110, section 12.5.1, has it.

    Args:
        accept: the header; empty for none.
        forms: media types by name; of equal ones the first is taken, which is also the answer to
            who accepts none of them.
    """
    qualities: dict[str, float] = {}
    for item in accept.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _number(value.strip())
        qualities[media] = quality

    def quality_of(name: _Name) -> float:
        media = forms[name]
        ranges = (media, f"{media.partition('/')[0]}/*", "*/*")
        return next((qualities[each] for each in ranges if each in qualities), 0.0)

    return max(forms, key=quality_of)


def _number(text: str) -> float:
    """A quality; 0 for what is none."""
    whole, _, part = text.partition(".")
    if whole not in ("0", "1") or len(part) > 3 or not (part or "0").isdecimal():
        return 0.0
    return min(1.0, float(f"{whole}.{part or 0}")) if text.isascii() else 0.0
