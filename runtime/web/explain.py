"""`POST /explain`: a picture in, its answer and its map out, as JSON or PNG.

Uploads are read in the server's event loop and answered by one worker, which shares the model
with the run. All of it is bounded: what one picture may be, what all of them may hold at once,
how many wait and for how long. Whatever is beyond is refused with 503 and `Retry-After`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.model.drawing.style import MAP_NAMES
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.strict_json import strict_json
from foldcam.runtime.system.version import version
from foldcam.runtime.web.explainer import KINDS, MEDIA_TYPES, Explained, Explainer, PictureError
from foldcam.runtime.web.explainer import Question as Question
from foldcam.runtime.web.guard import EXPLAIN

MAX_UPLOAD = 16 << 20
"""Bytes of one picture."""
MAX_TOGETHER = 128 << 20
"""Bytes of all pictures that wait and of all answers that are not fetched yet."""
MOST_WAITING = 64
WAIT_SECONDS = 20.0
"""A picture waits no longer for those before it."""
UPLOAD_SECONDS = 10.0
_PART = 1 << 16
_BOOLEANS = {"true": True, "false": False}
_Name = TypeVar("_Name", bound=str)
_NUMBER_OR_NULL = {"type": ["number", "null"]}
_ROWS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}


def explain_routes(explainer: Explainer, executor: Executor) -> list[BaseRoute]:
    """The route, and the document that describes it."""
    document = strict_json(openapi_document(explainer.contract)) + "\n"

    async def openapi(_: Request) -> Response:
        return Response(document, media_type="application/json")

    return [
        Route(EXPLAIN, _Explain(explainer, executor), methods=["POST"]),
        Route("/openapi.json", openapi),
    ]


class _GoneError(Exception):
    """The client went away."""


class _RefusedError(Exception):
    """An answer that is none."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = PlainTextResponse(f"{sentence}\n", status, headers)


class _Explain:
    """The route as an ASGI application, which holds an answer's memory until it was fetched."""

    def __init__(self, explainer: Explainer, executor: Executor) -> None:
        self._explainer = explainer
        self._executor = executor
        self._held = 0
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held = 0
        try:
            question = _question(QueryParams(scope["query_string"]), Request(scope))
            picture = [await self._upload(receive)]
            held = len(picture[0])
            explained = await self._explained(picture, question, receive)
            self._held += len(explained.body) - held
            held = len(explained.body)
            await _send(explained, send)
        except _GoneError:
            pass
        except _RefusedError as refused:
            await refused.response(scope, receive, send)
        finally:
            self._held -= held

    async def _upload(self, receive: Receive) -> bytes:
        """The picture's bytes, which count among those that are held from then on.

        What is refused is read to its end first, since a client that still sends would not see
        the answer.
        """
        data, refused = bytearray(), None

        async def collect() -> None:
            nonlocal refused
            size, more = 0, True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise _GoneError
                part, more = message.get("body", b""), message.get("more_body", False)
                size += len(part)
                if refused is None:
                    refused = self._refusal(size, len(part))
                    self._held += len(part) if refused is None else -len(data)
                    data.extend(part)
                if refused is not None:
                    data.clear()
                if size > 2 * MAX_UPLOAD:
                    return

        try:
            await asyncio.wait_for(collect(), UPLOAD_SECONDS)
            if refused is not None:
                raise refused
            if not data:
                raise _RefusedError(400, "There is no picture: send its bytes as the body.")
        except BaseException as error:
            self._held -= len(data)
            if isinstance(error, asyncio.TimeoutError):
                raise _RefusedError(
                    408, f"The picture took longer than {UPLOAD_SECONDS:.0f} s to arrive.",
                    connection="close",
                ) from None  # fmt: skip
            raise
        return bytes(data)

    def _refusal(self, size: int, part: int) -> _RefusedError | None:
        """Why a picture of which so many bytes have come is not read on."""
        if size > MAX_UPLOAD:
            return _RefusedError(
                413, f"The picture has more than {MAX_UPLOAD >> 20} MiB: send a smaller one.",
                connection="close",
            )  # fmt: skip
        if self._held + part > MAX_TOGETHER or self._waiting >= MOST_WAITING:
            return self._overload()
        return None

    def _overload(self) -> _RefusedError:
        seconds = math.ceil(1e-3 * self._explainer.usual_ms * self._waiting)
        return _RefusedError(
            503, "Too many pictures wait: send this one again later.",
            retry_after=str(max(1, min(60, seconds))),
        )  # fmt: skip

    async def _explained(
        self, picture: list[bytes], question: Question, receive: Receive
    ) -> Explained:
        if self._waiting >= MOST_WAITING:
            raise self._overload()
        self._waiting += 1
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            work = self._executor.submit(self._answer, picture, question, time.perf_counter())
            done = asyncio.wrap_future(work)
            either: set[asyncio.Future[Any]] = {done, gone}
            await asyncio.wait(either, timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            # Only what has not begun can be taken out of the queue.
            if not done.done() and work.cancel():
                raise _GoneError if gone.done() else self._overload()
            return await done
        except PictureError as error:
            raise _RefusedError(400, str(error)) from error
        except FoldcamError as error:
            raise _RefusedError(503, str(error), retry_after="10") from error
        finally:
            # What was taken out stays in the executor's queue until its turn; its bytes do not.
            picture.clear()
            self._waiting -= 1
            gone.cancel()

    def _answer(self, picture: list[bytes], question: Question, since: float) -> Explained:
        return self._explainer.answer(picture.pop(), question, since)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(explained: Explained, send: Send) -> None:
    """In parts, each of which waits until the client has read most of those before."""
    body = explained.body
    timing = ", ".join(f"{name};dur={spent:.2f}" for name, spent in explained.milliseconds.items())
    start: Message = {
        "type": "http.response.start",
        "status": 200,
        "headers": [
            (b"content-type", explained.media_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"server-timing", timing.encode()),
            (b"vary", b"accept"),
        ],
    }
    await send(start)
    for begin in range(0, len(body), _PART):
        more = begin + _PART < len(body)
        part = body[begin : begin + _PART]
        await send({"type": "http.response.body", "body": part, "more_body": more})


def _question(given: QueryParams, request: Request) -> Question:
    """What is asked, by the address and the header `Accept`."""
    known = {"as": KINDS, "map": MAP_NAMES, "embedding": tuple(_BOOLEANS)}
    asked: dict[str, str] = {}
    for name, value in given.multi_items():
        if name not in known or name in asked:
            raise _RefusedError(400, f"The address takes {', '.join(known)}, each once.")
        if value not in known[name]:
            raise _RefusedError(400, f"{name} is one of {', '.join(known[name])}.")
        asked[name] = value
    accepted = ",".join(request.headers.getlist("accept"))
    kind = asked.get("as") or preferred(accepted, MEDIA_TYPES)
    return Question(
        kind,  # type: ignore[arg-type]
        asked.get("map", "heatmap"),  # type: ignore[arg-type]
        _BOOLEANS[asked.get("embedding", "false")],
    )


def preferred(accept: str, forms: Mapping[_Name, str]) -> _Name:
    """The form with the highest quality, as RFC 9110, section 12.5.1, has it.

    Args:
        accept: the header; empty for none.
        forms: media types by name; of equal ones the first is taken, which is also the answer to
            who accepts none of them.
    """
    qualities: dict[str, float] = {}
    for item in accept.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _number(value.strip())
        qualities[media] = quality

    def quality_of(name: _Name) -> float:
        media = forms[name]
        ranges = (media, f"{media.partition('/')[0]}/*", "*/*")
        return next((qualities[each] for each in ranges if each in qualities), 0.0)

    return max(forms, key=quality_of)


def _number(text: str) -> float:
    """A quality; 0 for what is none."""
    whole, _, part = text.partition(".")
    if whole not in ("0", "1") or len(part) > 3 or not (part or "0").isdecimal():
        return 0.0
    return min(1.0, float(f"{whole}.{part or 0}")) if text.isascii() else 0.0


def openapi_document(contract: Contract) -> dict[str, Any]:
    """The document, as JSON values."""
    maps = tuple(each for each in MAP_NAMES if each in ("heatmap", *contract.optional_outputs))
    sentence = {"text/plain": {"schema": {"type": "string"}}}
    retry = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
    picture = {"schema": {"type": "string", "format": "binary"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "foldcam",
            "version": version(),
            "description": "Answers for single pictures by the model of a run.",
        },
        "paths": {
            "/explain": {
                "post": {
                    "operationId": "explain",
                    "summary": "What the model says of a picture, and where it sees it.",
                    "security": [{"token": []}, {}],
                    "parameters": [
                        _parameter("as", KINDS, "The form of the answer, before Accept."),
                        _parameter("map", maps, "Which map; heatmap unless given."),
                        _parameter(
                            "embedding", ("true", "false"), "Whether JSON has the embedding."
                        ),
                    ],
                    "requestBody": {
                        "required": True,
                        "description": "The bytes of a JPEG, PNG, WebP, BMP, TIFF or another file "
                        "that foldcam reads; the content decides, not the type.",
                        "content": {"application/octet-stream": picture},
                    },
                    "responses": {
                        "200": {
                            "description": "The answer; Server-Timing has its parts.",
                            "content": {
                                "application/json": {"schema": _answer(maps)},
                                "image/png": picture,
                            },
                        },
                        "400": {"description": "The picture cannot be read, the model has no such "
                                "map, or the address asks for something else.",
                                "content": sentence},
                        "401": {"description": "The token is missing.", "content": sentence},
                        "403": {"description": "Another site's page asks.", "content": sentence},
                        "408": {"description": "It took too long to arrive.", "content": sentence},
                        "413": {"description": "The picture is too large.", "content": sentence},
                        "414": {"description": "The address is too long.", "content": sentence},
                        "421": {"description": "The host name is not ours.", "content": sentence},
                        "431": {"description": "The headers are too large.", "content": sentence},
                        "503": {"description": "Too many pictures wait, or the model failed.",
                                "headers": retry, "content": sentence},
                    },
                }
            }
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }  # fmt: skip


def _parameter(name: str, values: tuple[str, ...], description: str) -> dict[str, Any]:
    schema = {"type": "string", "enum": list(values)}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _answer(maps: tuple[str, ...]) -> dict[str, Any]:
    """Of the JSON lines' fields those that every model gives, and the map."""
    neighbor = {
        "type": "object",
        "required": ["row"],
        "properties": {
            "row": {"type": "integer", "minimum": 0},
            "label": {"type": "string"},
            "similarity": _NUMBER_OR_NULL,
            "score": _NUMBER_OR_NULL,
        },
    }
    place = {name: {"type": "number"} for name in ("x", "y", "width", "height")}
    return {
        "type": "object",
        "required": ["answer", "width", "height", "neighbors", "hottest_region", "map"],
        "properties": {
            "answer": {"type": "string"},
            "width": {"type": "integer", "minimum": 1},
            "height": {"type": "integer", "minimum": 1},
            "neighbors": {"type": "array", "items": neighbor},
            "hottest_region": {"type": ["object", "null"]},
            "unknown": {"type": "boolean"},
            "estimate": _NUMBER_OR_NULL,
            "error": {"type": "string"},
            "embedding": {"type": ["array", "null"], "items": _NUMBER_OR_NULL},
            "map": {
                "type": "object",
                "required": ["name", "values", "place"],
                "properties": {
                    "name": {"enum": list(maps)},
                    "values": _ROWS,
                    "lower": _ROWS,
                    "place": {"type": "object", "required": [*place], "properties": place},
                },
            },
        },
    }
