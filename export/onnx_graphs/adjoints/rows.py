"""Which positions of a value depend on one row of another, along a graph.

Behind an attention every value has an axis of tokens, and the class token's row of it depends
on the class token's row of the attention alone. A gradient is zero everywhere else, so only
that row of it is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """The positions `(o * count + index) * inner + i` of one axis, for every `o` and `i < inner`.

    An axis of `count` tokens alone has `inner` 1; tokens that a reshape put into one axis with
    what is before and behind them are found in it by these numbers.

    Attributes:
        count: how many rows there are, at least 2.
        inner: positions of the axis that one row takes.
    """

    axis: int
    count: int
    index: int
    inner: int = 1

    def shifted(self, by: int) -> Row:
        """The same row where there are more axes before it, or fewer."""
        return replace(self, axis=self.axis + by)

    def is_whole_axis(self, sizes: Sequence[int]) -> bool:
        """Whether its axis holds rows and nothing else."""
        return self.inner == 1 and sizes[self.axis] == self.count


def sizes_at(sizes: Sequence[int], row: Row | None) -> Sizes:
    """The sizes of a value of which only one row is kept."""
    return tuple(
        size // row.count if row is not None and axis == row.axis else size
        for axis, size in enumerate(sizes)
    )


def reshaped(row: Row, before: Sequence[int], after: Sequence[int]) -> Row | None:
    """Where a row lies after a reshape, None where its axis of rows was torn apart."""
    stride = row.inner * prod(before[row.axis + 1 :])
    for axis, size in enumerate(after):
        below = prod(after[axis + 1 :])
        if stride % below == 0 and size % (row.count * (stride // below)) == 0:
            return Row(axis, row.count, row.index, stride // below)
    return None
