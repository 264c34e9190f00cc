"""Results to a web address: one POST per JSON line."""

from __future__ import annotations

import base64
import http.client
import os
import re
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import Boxes
from foldcam.runtime.sinks.base import NotWritten, Sink
from foldcam.runtime.sinks.jsonl import lines_of
from foldcam.runtime.system.backoff import Backoff
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special
from foldcam.runtime.system.logs import log
from foldcam.runtime.system.redaction import bare_address, keep_secret
from foldcam.runtime.system.text import printable

TOKEN_VARIABLE = "FOLDCAM_WEBHOOK_TOKEN"
_TIMEOUT_S = 5.0
_PATIENCE_S = 5.0
_FAREWELL_S = 2.0
_BACKOFF_S = (0.5, 30.0)
_MOST_WAITING = 200
_MOST_WAITING_PATIENTLY = 8
# A frame on which the server itself fails so often is given up: others wait behind it.
_MOST_ANSWERS = 8
_TRY_AGAIN = (408, 425, 429)
_LONGEST_ANSWER = 1 << 16
_UNQUOTED = "/%:@!$&'()*+,;=~?"


class WebhookSink(Sink):
    """Posts each line of `--jsonl` as `application/json`, in order; the run never waits for long.

    Frames wait in a queue, from which a thread of its own sends them. What the server does not take
    is sent again with growing pauses, so a line can arrive twice, with the same `Idempotency-Key`.
    An answer that says no for good (4xx, redirections) loses its frame.

    Args:
        url: `https://host/path`, also with `user:password@`; see `parse_webhook`.
        token_file: its first line is sent as `Authorization: Bearer`. None takes the environment
            variable `FOLDCAM_WEBHOOK_TOKEN`, if there is one.
        patient: for recorded sources, whose frames must not be lost: at most 8 frames wait, and the
            run waits for the server, unless it has been away for five seconds. Otherwise 200 frames
            wait, and those above are lost.
    """

    name = "webhook"

    def __init__(
        self,
        url: str,
        token_file: str | None = None,
        embedding: bool = True,
        patient: bool = False,
        boxes: Boxes | None = None,
    ) -> None:
        self._server = parse_webhook(url)
        self._headers = _headers(self._server, token_file)
        self._embedding, self._patient, self._boxes = embedding, patient, boxes
        self._room = _MOST_WAITING_PATIENTLY if patient else _MOST_WAITING
        self.output = self._server.shown
        self._changed = threading.Condition()
        self._waiting: deque[list[bytes]] = deque()
        self._closing = self._left = False
        self._lost, self._reason, self._failure = 0, "", ""
        self._heard = time.monotonic()
        self._connection: http.client.HTTPConnection | None = None
        self._used = False
        self._run, self._count = os.urandom(8).hex(), 0
        self._thread = threading.Thread(target=self._work, name="foldcam webhook", daemon=True)

    def __enter__(self) -> WebhookSink:
        self._heard = time.monotonic()
        self._thread.start()
        return self

    def write(self, item: FrameResults) -> None:
        """Queue one frame's lines."""
        lines = lines_of(item, self._embedding, self._boxes).splitlines()
        with self._changed:
            while self._patient and self._is_full() and self._patience() > 0:
                self._changed.wait(min(0.1, self._patience()))
            if self._is_full():
                raise NotWritten(self._failure or f"{self._server.shown} takes less than there is")
            self._waiting.append(lines)
            self._changed.notify_all()

    def close(self, failed: bool) -> None:
        """Send what waits, as long as the server takes it; the rest is lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            end = time.monotonic() + _FAREWELL_S
            while self._waiting and self._thread.is_alive():
                left = end - time.monotonic()
                if self._patient and not failed:
                    left = max(left, self._patience())
                if left <= 0:
                    break
                self._changed.wait(min(0.1, left))
            self._left = True
            if self._waiting:
                self._lose(len(self._waiting), self._failure or f"{self._server.shown} is slow")
                self._waiting.clear()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(1.0)  # while it waits for an answer, its time-out ends it

    def losses(self) -> tuple[int, str]:
        """Frames that were queued and that the server did not take, and why."""
        with self._changed:
            return self._lost, self._reason

    def _is_full(self) -> bool:
        return len(self._waiting) >= self._room

    def _patience(self) -> float:
        """Seconds for which a server that was heard of is still waited for."""
        return self._heard + _PATIENCE_S - time.monotonic()

    def _lose(self, count: int, reason: str) -> None:
        self._lost, self._reason = self._lost + count, reason

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing or self._left)
                if self._left or not self._waiting:
                    self._disconnect()
                    return
                lines = self._waiting[0]
            refused = ""
            for line in lines:
                if not self._left:
                    refused = self._deliver(line) or refused
            with self._changed:
                if not self._left:
                    self._waiting.popleft()
                    if refused:
                        self._lose(1, refused)
                self._changed.notify_all()

    def _deliver(self, line: bytes) -> str:
        """Send one line until it is taken; why it is given up, if it is."""
        self._count += 1
        key = f"{self._run}-{self._count}"
        backoff, answers = Backoff(*_BACKOFF_S), 0
        while True:
            try:
                status, pause = self._post(line, key)
            except (OSError, http.client.HTTPException) as error:
                failure, pause = f"{self._server.shown} {_clause(error)}", 0.0
            else:
                failure = f"{self._server.shown} answers {status}{_phrase(status)}"
                self._heard = time.monotonic()
                if 200 <= status < 300:
                    if self._failure:
                        log.warning("%s takes results again", self._server.shown)
                    self._failure = ""
                    return ""
                answers += 1
                if (status < 500 and status not in _TRY_AGAIN) or answers >= _MOST_ANSWERS:
                    self._complain(failure, "the result is lost")
                    return failure
            self._complain(failure, "trying again")
            if not self._pause(max(backoff.next(), min(pause, _BACKOFF_S[1]))):
                return failure

    def _pause(self, seconds: float) -> bool:
        """Wait before another attempt; whether there is to be one."""
        with self._changed:
            closing = self._closing
            # When the run ends it is tried at once, whatever the pause.
            self._changed.wait_for(
                lambda: self._left or self._closing != closing,
                min(seconds, _BACKOFF_S[0]) if closing else seconds,
            )
            return not self._left

    def _complain(self, failure: str, then: str) -> None:
        if failure != self._failure:
            log.warning("%s; %s", failure, then)
        self._failure = failure

    def _post(self, line: bytes, key: str) -> tuple[int, float]:
        """One attempt: the status, and for how many seconds the server asks not to be asked."""
        while True:
            again, self._used = self._used, True
            try:
                connection = self._connection = self._connection or self._server.connect()
                headers = {**self._headers, "Idempotency-Key": key}
                connection.request("POST", self._server.path, line, headers)
                answer = connection.getresponse()
                if len(answer.read(_LONGEST_ANSWER)) == _LONGEST_ANSWER:
                    self._disconnect()
                after = answer.headers.get("Retry-After", "")
                return answer.status, float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0
            except BaseException as error:
                self._disconnect()
                # A server may close a connection that was idle: that is no failure.
                if not (again and isinstance(error, ConnectionError)):
                    raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._used = None, False


@dataclass(frozen=True)
class Server:
    """Where lines are posted.

    Attributes:
        tls: whether the connection is encrypted and the server's certificate checked.
        login: `user:password`; None for none.
        shown: the address without credentials, path and query, which may hold a secret.
    """

    host: str
    port: int
    path: str = field(repr=False)
    tls: bool
    login: str | None = field(repr=False)
    shown: str

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is not open yet; certificates are those that the system trusts."""
        if not self.tls:
            return http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        return http.client.HTTPSConnection(
            self.host, self.port, timeout=_TIMEOUT_S, context=ssl.create_default_context()
        )


def parse_webhook(url: str) -> Server:
    """`https://host/path?query`, `http://`, or with `user:password@` (percent-encoded)."""
    keep_secret(url)
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").encode("idna").decode()
    except (ValueError, UnicodeError):
        raise FoldcamError(
            f"{bare_address(url)} is no web address: host or port is wrong."
        ) from None
    if parts.scheme not in ("http", "https"):
        raise FoldcamError(
            f"{bare_address(url)} is no web address: a webhook begins with https:// or http://."
        )
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", host) or port == 0 or printable(url) != url:
        raise FoldcamError(f"{bare_address(url)} is no web address: host or port is wrong.")
    path = parts.path or "/"
    path += f"?{parts.query}" if parts.query else ""
    place = f"[{host}]" if ":" in host else host
    place += "" if port is None else f":{port}"
    login = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Server(
        host=host,
        port=port or (443 if parts.scheme == "https" else 80),
        path=quote(path, safe=_UNQUOTED),
        tls=parts.scheme == "https",
        login=login,
        shown=f"{parts.scheme}://{place}" + ("" if path == "/" else "/***"),
    )


def _headers(server: Server, token_file: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": "foldcam"}
    token, place = os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
    if token_file is not None:
        place = f"The token file {token_file}"
        refuse_special(Path(token_file))
        try:
            token = Path(token_file).read_text(encoding="utf-8").partition("\n")[0].strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise FoldcamError(f"{place} cannot be read: {reason}.") from error
        if not token:
            raise FoldcamError(f"{place} is empty: its first line is the token.")
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise FoldcamError(f"{place} holds no token: it has blanks or other than ASCII letters.")
    if token and server.login is not None:
        raise FoldcamError(
            f"{server.shown} has a password, and there is a token: give one of them."
        )
    if token:
        headers["Authorization"] = f"Bearer {token}"
    elif server.login is not None:
        code = base64.b64encode(server.login.encode()).decode()
        headers["Authorization"] = f"Basic {code}"
    local = server.host == "localhost" or server.host.startswith("127.") or server.host == "::1"
    if "Authorization" in headers and not server.tls and not local:
        log.warning("%s gets its token without encryption: use https://", server.shown)
    return headers


def _phrase(status: int) -> str:
    phrase = http.client.responses.get(status, "")
    return f" ({phrase})" if phrase else ""


def _clause(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return f"does not answer within {_TIMEOUT_S:g} s"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or type(error).__name__}"
    return "gives no HTTP answer"
