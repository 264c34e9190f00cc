"""The messages that the troubleshooting page quotes are those that the programs say."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"


def _text(node: ast.AST) -> str | None:
    """A string of the sources, with NUL where a value is put in; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "\0" for part in node.values
        )
    return None


@cache
def said() -> tuple[str, ...]:
    """Every string in the packages that users run."""
    found = set()
    for package in ("runtime", "export", "calibrate", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                text = _text(node)
                if text:
                    found.add(text)
    return tuple(sorted(found))


def quotes() -> list[str]:
    """The first cell of every row of foldcam's own tables."""
    own = PAGE.read_text(encoding="utf-8").split("\n## From other programs")[0]
    return re.findall(r"^\| `([^`]+)` \|", own, re.MULTILINE)


def is_said(quote: str) -> bool:
    """Whether some string of the sources says it; `...` is anything of one line."""
    pattern = ".*?".join(re.escape(part) for part in quote.split("..."))
    return any(re.search(pattern, text) for text in said())


@pytest.mark.parametrize("quote", quotes())
def test_a_message_that_is_quoted_is_one_of_the_programs(quote):
    assert is_said(quote)
    words = quote.replace("...", " ").split()
    assert len(words) > 2, "too little to be found by"


def test_the_page_quotes_enough_and_each_message_once():
    assert len(quotes()) > 40
    assert len(set(quotes())) == len(quotes())


def test_a_message_that_nobody_says_would_be_found():
    assert not is_said("The network is made of cheese ... and holes")
    assert not is_said("The network is not deterministic ... made of cheese")
