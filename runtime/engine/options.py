"""What can be chosen about a build."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from foldcam.runtime.system.documents import KeyProblem, Natural
from foldcam.runtime.system.errors import FoldcamError

MAX_BATCH = 1024
MIB = 1 << 20


class Profile(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Batch sizes that one set of kernels serves: from `low` to `high`, fastest at `best`."""

    low: int
    best: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.best <= self.high <= MAX_BATCH:
            reason = (
                f"has the batch sizes {self.low}, {self.best}, {self.high}, which must be in "
                f"ascending order and within 1 to {MAX_BATCH}"
            )
            raise KeyProblem("", reason, f"A profile {reason}.")

    @property
    def fixed(self) -> bool:
        """Whether it serves one size only."""
        return self.low == self.high


@dataclass(frozen=True)
class BuildOptions:
    """What can be chosen about a build; the rest follows from file, device and version.

    Attributes:
        profiles: at least one; together they should leave no size out.
        workspace: scratch memory that kernels may use, in bytes; None takes a share of
            what is free.
        dla_core: the deep learning accelerator to use; None is the GPU.
        compute_capabilities: GPUs to build for, such as `8.9`. TensorRT-RTX only; empty
            is its own choice, every GPU from 8.0 on.
    """

    profiles: Annotated[tuple[Profile, ...], Meta(min_length=1, max_length=64)] = (
        Profile(1, 1, 1),
    )
    workspace: Natural | None = None
    dla_core: Annotated[int, Meta(ge=-1, le=15)] | None = None
    compute_capabilities: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    timing_cache: bool = True

    def command(self, model: Path | str, flavour: str, out: Path | str | None = None) -> str:
        """The command line that builds a model with these options."""
        words = ["runtime", "build", str(model)]
        if out is not None:
            words += ["--out", str(out)]
        words += ["--flavour", flavour]
        if self.profiles != BuildOptions.profiles:
            words += _profile_words(self.profiles)
        if self.workspace is not None:
            words += ["--workspace", str(max(1, self.workspace // MIB))]
        if self.dla_core is not None:
            words += ["--dla", str(self.dla_core)]
        if self.compute_capabilities:
            words += ["--compute-capability", ",".join(self.compute_capabilities)]
        if not self.timing_cache:
            words.append("--no-timing-cache")
        return shlex.join(words)


def profiles_for(sizes: Sequence[int]) -> tuple[Profile, ...]:
    """One profile per batch size, each fastest there, together without a gap from 1 on.

    `(1, 4, 8)` gives `1..1`, `2..4` and `5..8`: a batch of 3 runs too, with the kernels
    that were chosen for 4.
    """
    if not sizes:
        raise FoldcamError("No batch size is given: give one or more, such as 1,4,8.")
    for size in sizes:
        if not 1 <= size <= MAX_BATCH:
            raise FoldcamError(f"The batch size {size} is outside 1 to {MAX_BATCH}.")
    ascending = sorted(set(sizes))
    lows = [1, *(size + 1 for size in ascending[:-1])]
    return tuple(Profile(low, size, size) for low, size in zip(lows, ascending, strict=True))


def parse_sizes(text: str) -> tuple[int, ...]:
    """Batch sizes as on the command line, such as `1,4,8`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,6}", part) for part in parts):
        raise FoldcamError(f"{text[:80]!r} are no batch sizes: give whole numbers, such as 1,4,8.")
    return tuple(int(part) for part in parts)


def parse_capabilities(text: str) -> tuple[str, ...]:
    """Compute capabilities as on the command line, such as `7.5,8.9`."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(re.fullmatch(r"[0-9]{1,2}\.[0-9]", part) for part in parts):
        raise FoldcamError(f"{text[:80]!r} are no compute capabilities: write 8.9, or 7.5,8.9.")
    return parts


def _profile_words(profiles: tuple[Profile, ...]) -> list[str]:
    sizes = [profile.high for profile in profiles]
    if profiles == profiles_for(sizes):
        return ["--batch", ",".join(map(str, sizes))]
    first = profiles[0]
    return [
        "--min-batch", str(first.low), "--opt-batch", str(first.best), "--max-batch",
        str(first.high),
    ]  # fmt: skip
