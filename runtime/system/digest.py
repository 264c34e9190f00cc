"""JSON documents as bytes that anybody can make again, and their hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from foldcam.runtime.system.strict_json import finite


def digest_of(document: Any) -> str:
    """Hexadecimal SHA-256 of a document in its canonical form.

    That is `json.dumps(document, sort_keys=True, separators=(",", ":"))` of the document as it
    is read back from its file, in which numbers that are not finite are null.
    """
    text = json.dumps(finite(document), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
