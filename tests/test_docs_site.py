"""The documents as a site: complete, strict, and silent towards other hosts."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).resolve().parent.parent
# What a browser fetches of its own accord, by tag; a link that a reader may follow is not in it.
FETCHED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "iframe": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "image": ("href", "xlink:href"),
    "use": ("href", "xlink:href"),
}


class Page(HTMLParser):
    """The addresses that a page makes a browser fetch, and what is in its styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.styles: list[str] = []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        for name, value in attrs:
            if name in FETCHED.get(tag, ()):
                self.fetched.append(value or "")
            if name == "style":
                self.styles.append(value or "")

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.styles.append(data)


def outside(page: str) -> list[str]:
    """The addresses on other hosts that a page makes a browser fetch."""
    parsed = Page(page)
    fetched = parsed.fetched + in_styles("\n".join(parsed.styles))
    return [address for address in fetched if re.match(r"\s*(\w+:)?//", address)]


def in_styles(text: str) -> list[str]:
    """The addresses in a style sheet."""
    return re.findall(r"""(?:url\(\s*|@import\s+)["']?([^"')\s]+)""", text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def pages(site: Path) -> Iterator[tuple[str, str]]:
    """Every page with its text."""
    for path in sorted(site.rglob("*.html")):
        yield str(path.relative_to(site)), path.read_text(encoding="utf-8")


def test_no_page_asks_another_host_for_anything(site):
    found = {name: outside(text) for name, text in pages(site)}
    assert len(found) > 10
    assert not any(found.values()), found


def test_no_style_sheet_asks_another_host_for_anything(site):
    sheets = list(site.rglob("*.css"))
    assert sheets
    for path in sheets:
        addresses = in_styles(path.read_text(encoding="utf-8"))
        assert not [a for a in addresses if re.match(r"(https?:)?//", a)], path.name


def test_nothing_is_on_the_pages_that_would_make_the_theme_load_a_script(site):
    # The theme takes mermaid from a CDN, and a repository's facts from its host, if it sees these.
    for name, text in pages(site):
        assert not re.search(r'class="[^"]*\bmermaid\b', text), name
        assert 'data-md-component="source"' not in text, name


def test_an_outside_request_would_be_found():
    assert outside('<link rel="stylesheet" href="https://fonts.example/css">')
    assert outside("<img srcset='//cdn.example/a.png'>")
    assert outside("<style>@import 'https://a.example/b.css';</style>")
    assert outside('<p style="background: url(http://a.example/b.png)">')
    assert not outside('<a href="https://arxiv.org">paper</a><img src="images/a.png">')


def test_links_of_the_repository_lead_to_pages_of_the_site(site):
    first = (site / "index.html").read_text(encoding="utf-8")
    assert 'src="docs/images/demo.jpg"' in first
    assert 'href="docs/method.html"' in first
    assert 'href="CONTRIBUTING.html"' in first
    assert 'href="docs/overhead.html"' in first
    jetson = (site / "docs" / "jetson.html").read_text(encoding="utf-8")
    assert 'href="../Dockerfile"' in jetson
    assert (site / "Dockerfile").read_bytes() == (ROOT / "Dockerfile").read_bytes()


def test_every_link_within_the_site_has_a_target(site):
    for name, text in pages(site):
        if name == "404.html":
            continue
        for address in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if not re.match(r"\w+:|//", address):
                assert (site / name).parent.joinpath(address).exists(), (name, address)


def test_a_page_that_is_not_in_the_navigation_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# One\n")
    (tmp_path / "docs" / "lost.md").write_text("# Lost\n")
    config = yaml.safe_load(re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text()))
    config.update(docs_dir="docs", nav=[{"One": "index.md"}], site_dir="site")
    config["theme"] = {"name": "mkdocs"}
    config["markdown_extensions"] = []
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config))
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    with pytest.raises(Abort, match="strict mode"):
        build(load_config(str(tmp_path / "mkdocs.yml")))


def test_lists_and_folded_parts_are_read_as_the_repositorys_host_reads_them():
    """The site's Markdown needs an empty line before a list, and a word in `<details>`."""
    wrong = []
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        lists = re.findall(
            r"^(?![#<]|\s*(?:[-*]|\d+\.) )(\S.*)\n(?:[-*]|\d+\.) ", text, re.MULTILINE
        )
        wrong += [(path.name, line) for line in lists]
        wrong += [(path.name, line) for line in re.findall(r"<details>.*", text)]
    assert not wrong


def test_the_site_has_every_document_that_the_repository_shows_first():
    linked = {path.name: path.resolve() for path in (ROOT / "tools" / "site").iterdir()}
    assert all(linked[path.name] == path for path in (*ROOT.glob("*.md"), ROOT / "docs"))
