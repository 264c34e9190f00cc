"""Labels: those that people take for one, those of one image, and those that are numbers."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, get_args

from foldcam.export.datasets.samples import Part, Sample
from foldcam.runtime.system.errors import FoldcamError

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


_LARGEST = 3.4e38


def value_of(label: str, where: str) -> float:
    """The continuous outcome that a label gives."""
    try:
        value = float(label) if "_" not in label else math.nan
    except ValueError:
        value = math.nan
    # Beyond this a bank's float32 is infinite.
    if not abs(value) < _LARGEST:
        raise FoldcamError(
            f"{where}: the label {label[:40]!r} is not a finite number, and a continuous outcome "
            "needs one."
        )
    return value


SingletonPolicy = Literal["refuse", "keep", "drop"]
SINGLETON_POLICIES: tuple[SingletonPolicy, ...] = get_args(SingletonPolicy)


def handle_singletons(samples: tuple[Sample, ...], policy: SingletonPolicy) -> tuple[Sample, ...]:
    """What to do with labels that have one image.

    Such an image has nothing of its own label to be compared with: its direction
    rests on its own embedding against the others alone.
    """
    counts = Counter(sample.label for sample in samples)
    single = [label for label, count in counts.items() if count == 1]
    if not single or policy == "keep":
        return samples
    if policy == "drop":
        return tuple(sample for sample in samples if counts[sample.label] > 1)
    shown = ", ".join(repr(label) for label in single[:5]) + (", ..." if len(single) > 5 else "")
    raise FoldcamError(
        f"{len(single)} label{'s have' if len(single) > 1 else ' has'} one image only ({shown}) "
        "and nothing of the same label to compare it with: add images, or pass --singletons drop "
        "to leave them out or --singletons keep to compare them with the other labels only."
    )
