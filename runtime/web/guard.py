"""The gate before every route: token, host, origin, sizes, headers.

It wraps the whole application, so that a route cannot be forgotten.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from foldcam.runtime.web.access import Access, same_origin
from foldcam.runtime.web.address import HostNames

MAX_HEADERS = 16 << 10
MAX_BODY = 2048
_MAX_TARGET = 2048
_BODY_SECONDS = 5.0
LEARN, EXPLAIN = "/api/learn", "/explain"
TAKES_BODY = (LEARN, EXPLAIN)
"""The routes that are given something; each bounds what it reads."""
_log = logging.getLogger(__name__)

POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not `no-referrer`: with that, browsers send a form's origin as `null`.
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
"""Of every answer, unless the route says otherwise."""
_STYLE = (
    ":root{color-scheme:light dark}"
    "body{margin:0;min-height:100vh;display:grid;place-items:center;"
    "font:1rem/1.5 system-ui,sans-serif;background:#f4f5f7;color:#14171c}"
    "form{display:grid;gap:.75rem;width:min(22rem,calc(100vw - 3rem))}"
    "h1{font-size:1.4rem;margin:0}p{margin:0}"
    "input,button{font:inherit;padding:.7rem .8rem;border-radius:.6rem;border:1px solid #8a93a3;"
    "background:transparent;color:inherit;min-width:0}"
    "button{background:#0b57d0;border-color:#0b57d0;color:#fff;cursor:pointer}"
    "[role=alert]{color:#b3261e}"
    "@media(prefers-color-scheme:dark){body{background:#0f1216;color:#e8eaee}"
    "[role=alert]{color:#ffb4ab}}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# Nothing else can be loaded without the token, so the style is inline, by its hash.
LOGIN_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


class Guard:
    """Lets a request through to the application, or answers it."""

    def __init__(self, app: ASGIApp, access: Access, hosts: HostNames) -> None:
        self._app = app
        self._access = access
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI has it."""
        answer = _Answer(send)
        refusal: Response | None
        try:
            refusal = await self._refusal(scope, receive)
            if refusal is None:
                await self._app(scope, receive, answer.send)
                return
        except Exception as error:
            # No traceback may reach the terminal of a run that somebody else disturbs.
            _log.error("a request failed: %s: %s", type(error).__name__, error)
            if answer.begun or scope["type"] != "http":
                return
            refusal = PlainTextResponse("This did not work.\n", 500)
        if scope["type"] == "websocket":
            await receive()
            await WebSocket(scope, receive, answer.send).send_denial_response(refusal)
        else:
            # What is left of its body is not read: the connection ends with the answer.
            refusal.headers["connection"] = "close"
            await refusal(scope, receive, answer.send)

    async def _refusal(self, scope: Scope, receive: Receive) -> Response | None:
        """The answer to what may not pass; also to a login, which has no route."""
        headers = Headers(scope=scope)
        login = scope["type"] == "http" and scope["path"] == "/login"
        if login and scope["method"] == "POST" and self._access.needs_token:
            return await self._login(scope, headers, receive)
        if not self._access.allows(scope["headers"]):
            return _unauthorized(scope, headers, wrong=False)
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADERS:
            return PlainTextResponse("The headers are too large.\n", 431)
        if len(headers.getlist("host")) != 1 or headers["host"] not in self._hosts:
            return PlainTextResponse(
                "This host name is not served: use the address, or give the name to the run.\n", 421
            )
        if len(scope["raw_path"]) + len(scope["query_string"]) > _MAX_TARGET:
            return PlainTextResponse("The address is too long.\n", 414)
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if not reads and not same_origin(scope["headers"]):
            return PlainTextResponse("Another site may not do this.\n", 403)
        if _has_body(headers) and scope["path"] not in TAKES_BODY:
            return PlainTextResponse("Nothing here takes a body.\n", 413)
        if login:
            return RedirectResponse("./", 303)
        if scope["type"] == "http" and scope["path"] == "/logout" and scope["method"] == "POST":
            return RedirectResponse("./", 303, {"set-cookie": self._access.no_cookie()})
        return None

    async def _login(self, scope: Scope, headers: Headers, receive: Receive) -> Response:
        body = await read_body(receive)
        given = b""
        if body is not None and same_origin(scope["headers"]):
            try:
                fields = parse_qs(body.decode("ascii"), max_num_fields=4, encoding="latin-1")
                given = fields.get("token", [""])[0].strip().encode("latin-1")
            except ValueError:
                pass
        if not self._access.is_token(given):
            return _unauthorized(scope, headers, wrong=True)
        https = headers.get("origin", "").startswith("https://")
        return RedirectResponse("./", 303, {"set-cookie": self._access.cookie(https)})


def _unauthorized(scope: Scope, headers: Headers, wrong: bool) -> Response:
    challenge = {"www-authenticate": 'Bearer realm="foldcam"'}
    if scope["type"] == "http" and "text/html" in headers.get("accept", ""):
        return HTMLResponse(
            login_page(scope["path"], wrong),
            401,
            {**challenge, "content-security-policy": LOGIN_POLICY},
        )
    return PlainTextResponse("This needs the token.\n", 401, challenge)


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip() != "0"


async def read_body(receive: Receive) -> bytes | None:
    """The request's body; None if it is larger than `MAX_BODY`, too slow, or breaks off."""
    body = b""

    async def collect() -> bytes | None:
        nonlocal body
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            part: bytes = message.get("body", b"")
            body += part
            if len(body) > MAX_BODY:
                return None
            if not message.get("more_body", False):
                return body

    try:
        return await asyncio.wait_for(collect(), _BODY_SECONDS)
    except asyncio.TimeoutError:
        return None


class _Answer:
    """Adds `HEADERS` to an answer, and remembers whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def send(self, message: Message) -> None:
        self.begun = True
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def login_page(path: str, wrong: bool) -> str:
    """The form as HTML.

    Args:
        path: that was asked for: the form's address is relative to it, so that a proxy may
            show the page below any prefix.
    """
    up = "../" * max(0, path.count("/") - 1)
    alert = '<p role="alert">That is not the token.</p>' if wrong else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>foldcam: sign in</title><style>{_STYLE}</style></head><body>"
        f'<form method="post" action="{up}login"><h1>foldcam</h1>'
        f"<p>This camera is shown to those who have its token.</p>{alert}"
        '<label for="token">Token</label>'
        '<input id="token" name="token" type="password" autocomplete="current-password" '
        'required autofocus maxlength="512"><button>Sign in</button></form></body></html>\n'
    )
