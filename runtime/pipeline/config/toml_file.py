"""A TOML file as a table, and the lines on which its keys stand."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_BYTES = 1 << 20
_HEADER = re.compile(r"\s*\[(\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"' -]+?)\s*=")


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """The table and the text of a file.

    Raises:
        FoldcamError: it cannot be read, or is not TOML; the message has the line.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise FoldcamError(f"{path} has more than {_MOST_BYTES >> 20} MiB: no configuration.")
        if not path.is_file():
            raise FoldcamError(f"{path} is no regular file.")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FoldcamError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from None
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError:
        raise FoldcamError(f"{str(path)!r} is not a file name.") from None
    return parse_toml(text, str(path)), text


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table that a text holds.

    Args:
        text: TOML.
        where: it came from, for messages.

    Raises:
        FoldcamError: it is not TOML.
    """
    try:
        # The parser demands what files on Windows do not have.
        table: dict[str, Any] = tomllib.loads(text.replace("\r\n", "\n"))
    except RecursionError:
        raise FoldcamError(f"{where} is nested too deeply.") from None
    except ValueError as error:  # integers of 5000 digits, too
        raise FoldcamError(f"{where} is not TOML: {printable(str(error))[:200]}.") from None
    return table


def line_of(text: str, key: str) -> int | None:
    """The line, from 1, on which a key such as `source[1].every` stands; None if unsure.

    A key that is missing has the line of its table.
    """
    wanted = re.sub(r"(\[\d+\])+$", "", key) if "." in key else key
    lines = _lines(text)
    while wanted:
        if wanted in lines:
            return lines[wanted]
        if f"{wanted}[0]" in lines:
            return lines[f"{wanted}[0]"]
        wanted = wanted.rpartition(".")[0]
    return None


def _lines(text: str) -> dict[str, int]:
    if '"""' in text or "'''" in text:
        return {}  # what looks like a key may be within a string
    found: dict[str, int] = {}
    tables: Counter[str] = Counter()
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            section = _bare(header[2])
            if header[1]:
                tables[section] += 1
                section = f"{section}[{tables[section] - 1}]"
            found.setdefault(section, number)
            continue
        assigned = _KEY.match(line)
        if assigned:
            name = _bare(assigned[1])
            found.setdefault(f"{section}.{name}" if section else name, number)
    return found


def _bare(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))
