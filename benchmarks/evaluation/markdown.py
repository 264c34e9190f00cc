"""Tables in Markdown, and how an interval is written in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without a newline at its end."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    lines.insert(1, "|---" * len(heads) + "|")
    return "\n".join(lines)


def interval(value: Mapping[str, float], form: str = ".3f") -> str:
    """`mean (low to high)`, as `bootstrap` gives them, each in a format."""
    return f"{value['mean']:{form}} ({value['low']:{form}} to {value['high']:{form}})"


def difference(value: Mapping[str, float]) -> str:
    """An interval with signs; bold where it excludes zero."""
    text = interval(value, "+.3f")
    return f"**{text}**" if value["low"] > 0 or value["high"] < 0 else text
