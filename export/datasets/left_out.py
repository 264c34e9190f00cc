"""What lies in a data set and is no image of it: counted by kind, and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from foldcam.export.datasets.samples import SkippedFile

NO_CLASS = "in no class folder"
_SHOWN = 5


def summary(left_out: Sequence[SkippedFile], root: Path) -> list[str]:
    """A note: how many files and folders of which kind, and the first of them.

    Args:
        left_out: as the readers found them.
        root: what the names are shown relative to.
    """
    if not left_out:
        return []
    counts = Counter(item.reason for item in left_out)
    kinds = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    # One of each kind first: many hidden files must not conceal the one photograph.
    first = {item.reason: item for item in reversed(left_out)}
    ordered = [*first.values(), *(item for item in left_out if item is not first[item.reason])]
    names = ", ".join(_relative(item, root) for item in ordered[:_SHOWN])
    more = ", ..." if len(left_out) > _SHOWN else ""
    what = "file or folder was" if len(left_out) == 1 else "files and folders were"
    return [f"{len(left_out)} {what} left out ({kinds}): {names}{more}."]


def _relative(item: SkippedFile, root: Path) -> str:
    if item.url is None and item.path.is_relative_to(root):
        return str(item.path.relative_to(root))
    return item.place
