"""One HTML file with its pictures inside, that opens without a network."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TextIO

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import encode_jpeg, fitted
from foldcam.runtime.system.files import atomic_path
from foldcam.runtime.system.text import printable

_QUALITY = 80
# A browser that opens the file asks nobody for anything, whatever a label is called.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #888; --good: #2a8a4a; --bad: #c04030; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 16px; }
h1 { font-size: 1.5rem; margin: 0 0 .3em; }
h2 { font-size: 1.15rem; margin: 1.6em 0 .4em; }
p { margin: .3em 0; max-width: 70em; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: .25em .8em .25em 0; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.quiet { color: var(--quiet); }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 10px; min-width: 0; }
.card .pictures { display: flex; gap: 6px; align-items: flex-start; }
.card figure { margin: 0; flex: 1; min-width: 0; }
.none { aspect-ratio: 1; border: 1px dashed var(--line); border-radius: 4px; display: grid;
  place-items: center; color: var(--quiet); font-size: .8rem; text-align: center; padding: .5em; }
.card figcaption { font-size: .85rem; overflow-wrap: anywhere; }
"""


def picture_uri(image: Image, side: int | None = None, quality: int = _QUALITY) -> str:
    """A picture as a `data:` address, for an `img` of a page.

    Args:
        side: makes the longer side at most so many pixels; None leaves the size.
        quality: of the JPEG, 1 to 100.
    """
    data = encode_jpeg(image if side is None else fitted(image, side, side), quality)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def page_text(text: str) -> str:
    """A user's text as HTML: escaped, in one line."""
    return escape(printable(text))


@contextmanager
def open_page(path: Path, title: str, style: str = "", script: str = "") -> Iterator[TextIO]:
    """Write a page piece by piece: head and foot are added, and the file is renamed at the end.

    Args:
        path: the `.html` file; what was there is replaced only by a whole page.
        style: CSS beside the page's own: `cards`, `card`, `pictures`, `none`, `quiet`, `number`.

    Yields:
        What takes the body's HTML. Text of the user's goes through `page_text`.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as page:
        page.write(
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        )
        yield page
        if script:
            page.write(f"<script>{script}</script>\n")
        page.write("</body>\n</html>\n")
