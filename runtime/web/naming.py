"""The routes by which unknown regions get a name, and what a query asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from foldcam.runtime.images.small import encode_jpeg
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import quantity
from foldcam.runtime.web.guard import LEARN, read_body
from foldcam.runtime.web.offers import MOST, Offers

_QUALITY = 82
_Answer = TypeVar("_Answer")


def naming_routes(offers: Offers, executor: Executor) -> list[BaseRoute]:
    """Pictures to choose from, and what learns them."""

    async def unknown(request: Request) -> Response:
        number = number_of(request.query_params.get("number", ""), 15)
        picture = None if number is None else offers.picture(number)
        if picture is None:
            return PlainTextResponse("This picture is no longer offered.\n", 404)
        headers = {"cache-control": "private, max-age=600"}
        return Response(encode_jpeg(picture, _QUALITY), 200, headers, "image/jpeg")

    async def learn(request: Request) -> Response:
        asked = _label_and_numbers(await read_body(request.receive))
        if asked is None:
            return PlainTextResponse("This needs a name and the numbers of pictures.\n", 400)
        try:
            added = await aside(executor, offers.learn, *asked)
        except FoldcamError as error:
            return PlainTextResponse(f"{error}\n", 409)
        if not added.rows:
            return PlainTextResponse("The bank has these pictures already.\n")
        rows = quantity(added.rows, "picture")
        return PlainTextResponse(f"{rows} of {asked[0]} learned; the next frames know it.\n")

    return [Route("/api/unknown.jpg", unknown), Route(LEARN, learn, methods=["POST"])]


def _label_and_numbers(body: bytes | None) -> tuple[str, list[int]] | None:
    """What a form says; None where that is not a name and numbers."""
    try:
        fields = parse_qs((body or b"").decode("ascii"), max_num_fields=2 * MOST, errors="strict")
    except ValueError:
        return None
    numbers = [text for text in fields.get("picture", []) if text.isdecimal() and len(text) < 16]
    label = " ".join(fields.get("label", [""])[0].split())
    return (label, [int(text) for text in numbers]) if label and numbers else None


async def aside(executor: Executor, work: Callable[..., _Answer], *given: Any) -> _Answer:
    """Done in another thread, so that no other answer waits for it."""
    return await asyncio.get_running_loop().run_in_executor(executor, work, *given)


def number_of(text: str, digits: int) -> int | None:
    """What a query says; None where that is no number, or one of more digits."""
    known = text.isascii() and text.isdecimal() and len(text) <= digits
    return int(text) if known else None
