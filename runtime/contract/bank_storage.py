"""How a folded model stores and searches its bank: the optional section `bank.storage`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foldcam.runtime.system.documents import KeyProblem, Natural

Search = Literal["exhaustive", "lists"]
Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class BankStorage:
    """What stands in the graph in place of float32 rows, all of them searched.

    Attributes:
        search: `exhaustive`, or `lists`: only the rows of the nearest lists are compared.
        lists: number of lists; 0 for an exhaustive search.
        list_rows: rows that each list has room for; 0 for an exhaustive search.
        probes: lists that are searched; 0 for an exhaustive search.
        rank: numbers stored per row of grad-weights, before they are multiplied with a common
            `[rank, K]`; 0 where whole rows are stored.
    """

    search: Search
    lists: Natural
    list_rows: Natural
    probes: Natural
    embeddings: Precision
    grad_weights: Precision
    rank: Natural
    sha256: str

    def check(self, rows: int, channels: int) -> None:
        """Hold it against the bank."""
        if (self.search == "lists") != (self.lists > 0):
            reason = f"is {self.lists}, which does not agree with the search {self.search!r}"
            raise KeyProblem("lists", reason)
        least, lists = min(self.lists, 1), self.lists
        for key, low, high in (
            ("lists", 0, rows), ("list_rows", 0, rows), ("probes", least, lists),
            ("rank", 0, channels),
        ):  # fmt: skip
            if not low <= getattr(self, key) <= high:
                raise KeyProblem(key, f"is {getattr(self, key)}, outside {low} to {high}")
        if lists * self.list_rows < (rows if lists else 0):
            reason = f"is {self.list_rows}: {lists} lists have no room for {rows} rows"
            raise KeyProblem("list_rows", reason)

    def sentence(self) -> str:
        """For a person."""
        compared = "all rows compared"
        if self.search == "lists":
            compared = f"{self.probes} of {self.lists} lists searched, {self.list_rows} rows each"
        rank = f", rank {self.rank}" if self.rank else ""
        return f"{compared}; embeddings {self.embeddings}, grad-weights {self.grad_weights}{rank}"
