"""JSON that every reader takes: it has no NaN and no infinity."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from foldcam.runtime.system.text import shorten

_MAX_DIGITS = 1000


def strict_json(document: Any, indent: int | None = None) -> str:
    """The document as JSON; a number that is not finite is written as null.

    Args:
        document: dictionaries with string keys, lists, tuples and JSON's own values.
        indent: spaces per level; None gives one line without spaces.
    """
    separators = (",", ":") if indent is None else None
    return json.dumps(finite(document), indent=indent, separators=separators, allow_nan=False)


def parse_json(text: str) -> Any:
    """A document that somebody else wrote.

    Raises:
        ValueError: it is not JSON, is nested too deeply, has two values for one key, or an
            integer of more than 1000 digits; the text is why, as a clause.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repetition, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    section = dict(pairs)
    if len(section) < len(pairs):
        # Which of the two a reader takes is up to the reader.
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"an object has two values for {shorten(name, 80)!r}")
    return section


def _integer(digits: str) -> int:
    # The time that Python takes grows with the square of their number.
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer has {len(digits)} digits")
    return int(digits)


def finite(value: Any) -> Any:
    """The value with null in place of NaN and infinity, which JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value
