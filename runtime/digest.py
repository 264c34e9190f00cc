"""JSON documents as bytes that anybody can make again, and their hash."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """The value with null in place of NaN and infinity, which JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


def digest_of(document: Any) -> str:
    """Hexadecimal SHA-256 of a document in its canonical form.

    That is `json.dumps(document, sort_keys=True, separators=(",", ":"))` of the document as it
    is read back from its file, in which numbers that are not finite are null.
    """
    text = json.dumps(finite(document), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
