"""JSON that every reader takes: it has no NaN and no infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(document: Any, indent: int | None = None) -> str:
    """The document as JSON; a number that is not finite is written as null.

    Args:
        document: dictionaries with string keys, lists, tuples and JSON's own values.
        indent: spaces per level; None gives one line without spaces.
    """
    separators = (",", ":") if indent is None else None
    return json.dumps(finite(document), indent=indent, separators=separators, allow_nan=False)


def finite(value: Any) -> Any:
    """The value with null in place of NaN and infinity, which JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value
