"""What the documents' site needs beyond docs/: hooks of mkdocs, named in mkdocs.yml.

The documents are written for the repository's host, where README.md is the first page and
links lead to files of the repository. Here README.md and its neighbours become pages of the
site, links follow them, and any other file that is linked is copied, so that the same text
works in both places.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs"
# Files of the repository that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
# Where other files that are linked are copied to, as text that a browser shows.
COPIES = "repository"
_FENCE = re.compile(r"(^ *```.*?^ *```[^\S\n]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
_LIST_AFTER_TEXT = re.compile(r"^(?!\s*(?:[-*]|\d+\.) )(\S.*\n)(?=(?:[-*]|\d+\.) )", re.MULTILINE)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with everything but its fenced code changed."""
    parts = _FENCE.split(text)
    parts[::2] = [change(part) for part in parts[::2]]
    return "".join(parts)


def site_path(path: str) -> str | None:
    """Where a file of the repository is on the site; None where there is no such file.

    Args:
        path: from the repository's root, with forward slashes.
    """
    if path in PAGES:
        return PAGES[path]
    if path.startswith(f"{DOCS}/"):
        return path.removeprefix(f"{DOCS}/")
    return f"{COPIES}/{path}.txt" if (ROOT / path).is_file() else None


def for_site(text: str, source: str) -> str:
    """A document of the repository as mkdocs reads it.

    Links lead to where their targets are on the site; lists that follow a line of text begin a
    paragraph, as they do on the repository's host; Markdown in `<details>` is read.

    Args:
        text: Markdown.
        source: its file, from the repository's root.
    """
    page = site_path(source) or source

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        place = site_path(target)
        if place is None:
            return found[0]
        return f"]({posixpath.relpath(place, posixpath.dirname(page) or '.')}"

    def change(part: str) -> str:
        part = _LINK.sub(link, part)
        part = part.replace("<details>", '<details markdown="1">')
        return _LIST_AFTER_TEXT.sub(r"\1\n", part)

    return outside_code(text, change)


def copies(text: str, source: str) -> set[str]:
    """The files of the repository that a document links to and that are no pages of the site."""
    found: set[str] = set()

    def look(part: str) -> str:
        for link in _LINK.findall(part):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            if (site_path(target) or "").startswith(f"{COPIES}/"):
                found.add(target)
        return part

    outside_code(text, look)
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs: pages and copies are added to what is in docs/."""
    sources = [f"{DOCS}/{file.src_uri}" for file in files.documentation_pages()]
    wanted: set[str] = set()
    for source in (*PAGES, *sources):
        text = (ROOT / source).read_text(encoding="utf-8")
        wanted |= copies(text, source)
        if source in PAGES:
            files.append(File.generated(config, PAGES[source], content=for_site(text, source)))
    for path in sorted(wanted):
        content = (ROOT / path).read_bytes()
        files.append(File.generated(config, f"{COPIES}/{path}.txt", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """mkdocs: pages of docs/ are read as the repository's host reads them."""
    if page.file.generated_by is not None:
        return markdown
    return for_site(markdown, f"{DOCS}/{page.file.src_uri}")
