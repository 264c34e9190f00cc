"""How a bank is to be stored and searched: what the flags say, before a bank is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from foldcam.runtime.contract.bank_storage import Precision
from foldcam.runtime.system.errors import FoldcamError

SearchChoice = Literal["auto", "exhaustive", "lists"]
PrecisionChoice = Literal["auto", "float32", "float16", "int8"]
PRECISION_CHOICES: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)
CompressionKind = Literal["none", "rank", "prototypes"]

DEFAULT_PROBES = 12
"""How many lists, of about a hundred rows each, are searched; see docs/overhead.md."""

ROWS_PER_LIST = 100
"""Approximate; lists are longer where the centroids themselves become many."""

# Rows of the bank over those in the lists that are searched, from which lists pay.
_WORTH_IT = 1.25
# Up to here comparing every float32 row costs less than finding the right lists: 1536 rows of 128.
_EXHAUSTIVE_BYTES = 3 << 18
# Smaller numbers take longer to be turned into floats, so that they are for tables larger than
# this, each kind as long as it fits.
_TABLE_BYTES = 8 << 20


@dataclass(frozen=True)
class SearchOptions:
    """`--search`.

    Attributes:
        choice: `exhaustive` compares all rows, `lists` those of the nearest lists, `auto`
            takes lists where they are faster.
        probes: lists that are searched.
    """

    choice: SearchChoice = "auto"
    probes: int = DEFAULT_PROBES


@dataclass(frozen=True)
class Compression:
    """`--compress`.

    Attributes:
        kind: `rank`: rows of grad-weights as combinations of a few; `prototypes`: one row of
            grad-weights for several similar images of a label.
        size: the rank, or the greatest number of rows per label.
    """

    kind: CompressionKind = "none"
    size: int = 0

    @property
    def name(self) -> str:
        """As on the command line."""
        return self.kind if self.kind == "none" else f"{self.kind}:{self.size}"


@dataclass(frozen=True)
class StorageOptions:
    """How a bank is stored.

    Attributes:
        search: which rows are compared.
        precision: the numbers in which embeddings and grad-weights are stored; `auto` takes
            smaller ones for larger banks.
        compression: the compression of the grad-weights.
        seed: the seed of lists and prototypes.
    """

    search: SearchOptions = field(default_factory=SearchOptions)
    precision: PrecisionChoice = "auto"
    compression: Compression = field(default_factory=Compression)
    seed: int = 0


def parse_search(text: str) -> SearchOptions:
    """`auto`, `exhaustive`, `lists` or `lists:PROBES`."""
    kind, _, number = text.partition(":")
    if text == "auto":
        return SearchOptions("auto")
    if text == "exhaustive":
        return SearchOptions("exhaustive")
    if text == "lists":
        return SearchOptions("lists")
    if kind == "lists" and _is_count(number):
        return SearchOptions("lists", int(number))
    raise FoldcamError(
        f"--search {text!r} is not auto, exhaustive, lists or lists:PROBES, such as lists:8."
    )


def parse_compression(text: str) -> Compression:
    """`none`, `rank:R` or `prototypes:N`."""
    kind, _, number = text.partition(":")
    if text == "none":
        return Compression()
    if _is_count(number):
        if kind == "rank":
            return Compression("rank", int(number))
        if kind == "prototypes":
            return Compression("prototypes", int(number))
    raise FoldcamError(
        f"--compress {text!r} is not none, rank:R or prototypes:N, such as rank:32: R numbers per "
        "row of grad-weights, or N rows of grad-weights per label."
    )


def searches_lists(options: SearchOptions, rows: int, size: int, continuous: bool) -> bool:
    """Whether lists are searched."""
    if continuous:
        if options.choice == "lists":
            raise FoldcamError(
                "--search lists compares some of the rows, and the estimate of a continuous "
                "outcome averages over all of them: use --search exhaustive."
            )
        return False
    if options.choice == "auto":
        # Of long embeddings few rows are many bytes, and lists that are all searched save none.
        searched = options.probes * ROWS_PER_LIST
        return rows * size * 4 > _EXHAUSTIVE_BYTES and rows > _WORTH_IT * searched
    return options.choice == "lists"


def precision_of_embeddings(choice: PrecisionChoice, lists: bool, values: int) -> Precision:
    """The numbers in which embeddings are stored."""
    if choice == "int8" and not lists:
        raise FoldcamError(
            "--bank-precision int8 needs --search lists: an exhaustive search would unpack every "
            "row for every image; use float16."
        )
    if choice != "auto":
        return choice
    if not lists or 4 * values <= _TABLE_BYTES:
        return "float32"
    return "float16" if 2 * values <= _TABLE_BYTES else "int8"


def precision_of_grad_weights(choice: PrecisionChoice, values: int) -> Precision:
    """The numbers in which grad-weights are stored; rows of one image are no place for int8."""
    if choice == "auto":
        return "float32" if 4 * values <= _TABLE_BYTES else "float16"
    return "float32" if choice == "float32" else "float16"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0
