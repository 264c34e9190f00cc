"""How a folded model stores and searches its bank: the optional section `bank.storage`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from foldcam.runtime.contract.fields import Fields

Search = Literal["exhaustive", "lists"]
SEARCHES: tuple[Search, ...] = get_args(Search)
Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class BankStorage:
    """What stands in the graph in place of float32 rows, all of them searched.

    Attributes:
        search: `exhaustive`, or `lists`: only the rows of the nearest lists are compared.
        lists: number of lists; 0 for an exhaustive search.
        list_rows: rows that each list has room for; 0 for an exhaustive search.
        probes: lists that are searched; 0 for an exhaustive search.
        embeddings: numbers in which the rows' embeddings are stored.
        grad_weights: numbers in which the grad-weights are stored.
        rank: numbers stored per row of grad-weights, before they are multiplied with a common
            `[rank, K]`; 0 where whole rows are stored.
        sha256: of the stored arrays.
    """

    search: Search
    lists: int
    list_rows: int
    probes: int
    embeddings: Precision
    grad_weights: Precision
    rank: int
    sha256: str

    def sentence(self) -> str:
        """For a person."""
        compared = "all rows compared"
        if self.search == "lists":
            compared = f"{self.probes} of {self.lists} lists searched, {self.list_rows} rows each"
        rank = f", rank {self.rank}" if self.rank else ""
        return f"{compared}; embeddings {self.embeddings}, grad-weights {self.grad_weights}{rank}"


def storage_from(fields: Fields, rows: int, channels: int) -> BankStorage:
    """Read the section.

    Args:
        fields: the section.
        rows: the rows of the bank.
        channels: K of the grad-weights.

    Raises:
        FoldcamError: a value is missing or wrong; the message names it.
    """
    search: Search = fields.choice("search", SEARCHES)
    lists = fields.integer("lists", high=rows)
    list_rows = fields.integer("list_rows", high=rows)
    if (search == "lists") != (lists > 0):
        fields.fail("lists", f"is {lists}, which does not agree with the search {search!r}")
    if lists * list_rows < (rows if lists else 0):
        fields.fail("list_rows", f"is {list_rows}: {lists} lists have no room for {rows} rows")
    embeddings: Precision = fields.choice("embeddings", PRECISIONS)
    grad_weights: Precision = fields.choice("grad_weights", PRECISIONS)
    return BankStorage(
        search=search,
        lists=lists,
        list_rows=list_rows,
        probes=fields.integer("probes", low=min(lists, 1), high=lists),
        embeddings=embeddings,
        grad_weights=grad_weights,
        rank=fields.integer("rank", high=channels),
        sha256=fields.text("sha256"),
    )
