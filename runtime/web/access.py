"""Who may look: the token, and the cookie that stands for it after a login."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable

from foldcam.runtime.system.errors import FoldcamError

MIN_TOKEN = 16
_MAX_TOKEN = 512
_COOKIE_SECONDS = 30 * 24 * 3600
_VISIBLE = re.compile(r"[!-~]+")
Headers = Iterable[tuple[bytes, bytes]]


class Access:
    """Decides by headers alone; compares in constant time and never shows the token.

    Args:
        token: None lets everybody in, which only loopback may.
    """

    def __init__(self, token: str | None, loopback: bool) -> None:
        if token is None:
            if not loopback:
                raise FoldcamError(
                    "Serving to other machines needs a token of at least "
                    f"{MIN_TOKEN} characters, such as {secrets.token_urlsafe(18)} (made for you "
                    "just now); without one, serve on 127.0.0.1."
                )
        elif len(token) < MIN_TOKEN:
            raise FoldcamError(
                f"The token of the live page has {len(token)} characters, and needs at least "
                f"{MIN_TOKEN}: take one such as {secrets.token_urlsafe(18)} (made just now)."
            )
        elif len(token) > _MAX_TOKEN or not _VISIBLE.fullmatch(token):
            raise FoldcamError(
                "The token of the live page has characters other than visible ASCII, or more "
                f"than {_MAX_TOKEN}: take one such as {secrets.token_urlsafe(18)} (made just now)."
            )
        self.needs_token = token is not None
        key = (token or secrets.token_urlsafe(32)).encode()
        # Compared as digests of one length: not even the token's length is to be timed. The
        # cookie is another digest of it, so that it survives a restart and reveals nothing.
        self._token = self._digest(key)
        self._cookie = hmac.new(key, b"foldcam live page: cookie", hashlib.sha256).hexdigest()
        # Cookies do not tell ports apart: two runs on one host must not log each other out.
        name = hmac.new(key, b"foldcam live page: its name", hashlib.sha256).hexdigest()[:8]
        self._name = f"foldcam-{name}"

    def allows(self, headers: Headers) -> bool:
        """Whether a request with these lower-case headers carries the token or its cookie."""
        if not self.needs_token:
            return True
        allowed = False
        for name, value in headers:
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                if scheme.lower() == b"bearer":
                    allowed |= self.is_token(given.strip())
            elif name == b"cookie":
                for part in value.split(b";"):
                    key, _, given = part.strip().partition(b"=")
                    if key == self._name.encode():
                        allowed |= hmac.compare_digest(given, self._cookie.encode())
        return allowed

    def is_token(self, given: bytes) -> bool:
        """Whether these bytes are the token."""
        return hmac.compare_digest(self._digest(given), self._token)

    def cookie(self, https: bool) -> str:
        """The value of `Set-Cookie` after a login."""
        secure = "; Secure" if https else ""
        return (
            f"{self._name}={self._cookie}; Path=/; Max-Age={_COOKIE_SECONDS}; HttpOnly; "
            f"SameSite=Strict{secure}"
        )

    def no_cookie(self) -> str:
        """The value of `Set-Cookie` that ends a login."""
        return f"{self._name}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"

    @staticmethod
    def _digest(given: bytes) -> bytes:
        return hashlib.sha256(given).digest()


def same_origin(headers: Headers) -> bool:
    """Whether a browser sent this from a page of ours; what sends no `Origin` is no browser."""
    found = {name: value.decode("latin-1").lower() for name, value in headers}
    origin = found.get(b"origin")
    if origin is None:
        return True
    scheme, _, host = origin.partition("://")
    # The scheme may differ from ours: a proxy in front may speak TLS.
    return scheme in ("http", "https") and host != "" and host == found.get(b"host")
