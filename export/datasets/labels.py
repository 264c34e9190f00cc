"""Labels that people take for one: another Unicode form, blanks, upper and lower case."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from foldcam.export.datasets.samples import Part, Sample

_SHOWN = 5
# Not line breaks and tabs: a label may be a text, and those are seen.
_BLANKS = re.compile(r"[^\S\r\n\t\v\f]+")


def plain(label: str) -> str:
    """A label in the one form in which it is stored: NFC, and single blanks between words.

    Two labels that differ in nothing else look the same on every screen, so that nobody can
    have meant two: a Mac's archive writes `ü` as `u` and two dots, a spreadsheet leaves a
    blank behind.
    """
    return _BLANKS.sub(" ", unicodedata.normalize("NFC", label)).strip()


def in_plain_form(
    samples: list[tuple[Part | None, Sample]],
) -> tuple[list[tuple[Part | None, Sample]], list[str]]:
    """Samples with plain labels, and a note on those that became one by it."""
    written: dict[str, set[str]] = defaultdict(set)
    changed = []
    for part, sample in samples:
        label = plain(sample.label)
        written[label].add(sample.label)
        changed.append((part, sample if label == sample.label else replace(sample, label=label)))
    merged = [
        f"{label!r} (written {', '.join(ascii(each) for each in sorted(ways))})"
        for label, ways in sorted(written.items())
        if len(ways) > 1
    ]
    if not merged:
        return changed, []
    return changed, [
        "Labels that differ only by blanks or by their Unicode form were taken for one: "
        f"{_first(merged)}."
    ]


def twins(labels: Iterable[str]) -> list[str]:
    """A note on labels that differ by upper and lower case or invisible characters alone.

    They stay apart: `Turkey` and `turkey` may be meant.

    Args:
        labels: one of each image.
    """
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for label in labels:
        groups[_key(label)][label] += 1
    alike = [
        " and ".join(f"{label!r} ({count})" for label, count in sorted(group.items()))
        for _, group in sorted(groups.items())
        if len(group) > 1
    ]
    if not alike:
        return []
    return [
        f"Labels that differ only by upper and lower case or by characters that nobody sees: "
        f"{_first(alike)}; they stay different labels: give them one name if they are one."
    ]


def _key(label: str) -> str:
    folded = unicodedata.normalize("NFKC", label).casefold()
    seen = (c for c in folded if unicodedata.category(c) not in ("Cf", "Cc"))
    return "".join("".join(seen).split())


def _first(texts: list[str]) -> str:
    more = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
