"""What routes share: numbers that are asked for, and work that holds up no other answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")


async def aside(executor: Executor, work: Callable[..., _Answer], *given: Any) -> _Answer:
    """Done in another thread, so that no other answer waits for it."""
    return await asyncio.get_running_loop().run_in_executor(executor, work, *given)


def number_of(text: str, digits: int) -> int | None:
    """What a query says; None where that is no number, or one of more digits."""
    known = text.isascii() and text.isdecimal() and len(text) <= digits
    return int(text) if known else None
