"""What a picture is called in its data set: the file's name relative to the data set's root."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit

LONGEST_NAME = 4096
"""Characters; Linux allows no longer path."""

# No text of UTF-8, and what separates names in a bank's file.
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


def relative_name(path: Path, root: Path) -> str:
    """A file's name below a folder, such as `anna/1.jpg`; links are not followed."""
    return plain_name(Path(os.path.relpath(path, root)).as_posix())


def url_name(url: str) -> str:
    """Host and path of a URL: user, password and query may hold a secret."""
    parts = urlsplit(url.rpartition("::")[2])
    return plain_name(f"{(parts.netloc or '').rpartition('@')[2]}{parts.path}")


def plain_name(text: str) -> str:
    """A name as it is stored and compared.

    NFC, as a Mac's archive writes `ü` as `u` and two dots; what is not UTF-8 is replaced; of
    a longer one the last `LONGEST_NAME` characters.
    """
    return unicodedata.normalize("NFC", _NOT_TEXT.sub("\ufffd", text))[-LONGEST_NAME:]
