"""Rows of a bank by what their pictures are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from foldcam.export.datasets.picture_names import plain_name
from foldcam.runtime.system.text import quantity

_CROP = re.compile(r"#-?\d+,-?\d+,\d+,\d+\Z")


def names_matching(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The names that a text stands for.

    Args:
        pattern: a name; a photograph's, which stands for all its crops, too; or a pattern of
            the whole name, in which `*`, `?` and `[...]` are within one folder and `**` is any
            number of folders.
    """
    text = plain_name(pattern.strip()).removeprefix("./")
    known = frozenset(names) - {""}
    exact = frozenset(name for name in known if text in (name, _CROP.sub("", name)))
    if exact:
        return exact
    wanted = text.split("/")
    return frozenset(
        name
        for name in known
        if _matches(_CROP.sub("", name).split("/"), wanted) or _matches(name.split("/"), wanted)
    )


def likely_meant(pattern: str, names: Sequence[str]) -> str:
    """`did you mean ...?` for a text that stands for no row; empty where nothing is near."""
    text = plain_name(pattern.strip()).removeprefix("./").rstrip("/")
    for wider in (f"**/{text}", f"{text}/**", f"**/{text}/**"):
        if found := names_matching(wider, names):
            return f"did you mean {wider!r} ({quantity(len(found), 'picture')})?"
    near = get_close_matches(text, sorted(frozenset(names) - {""}), 3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_matches(parts[start:], wanted[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])
