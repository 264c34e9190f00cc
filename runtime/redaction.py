"""Credentials in addresses, taken out of everything that is shown, logged or written."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s\"'<>]*)")
_SECRET = re.compile(
    r"token|key|pass|pwd|secret|auth|signature|credential|session|jwt|^(sig|user|code|sid)$",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"([?&;#])([^=&;#?]*)=([^&;#]*)")
_HIDDEN = "***"


def redacted(text: str) -> str:
    """The text with user names, passwords and secret parameters of every address as `***`.

    A password with an `@`, `/`, `?` or `#` that should have been percent-encoded is hidden,
    too: what stands before the last `@` goes if the address cannot be meant otherwise.

    Example:
        >>> redacted("rtsp://me:se@cret@camera/live?token=42&stream=1 is gone")
        'rtsp://***@camera/live?token=***&stream=1 is gone'
    """
    if "://" not in text:
        return text
    return _ADDRESS.sub(lambda found: f"{found[1]}://{_without_secrets(found[2])}", text)


def _without_secrets(rest: str) -> str:
    end = re.search(r"[/?#]", rest)
    authority = rest[: end.start()] if end else rest
    at = authority.rfind("@")
    if at < 0 and "@" in rest and not _is_host(authority):
        # `user:pa/ss@host`: what looks like host and port is user and half a password.
        at = rest.rfind("@")
    if at < 0 and _encoded_at(authority):
        return _HIDDEN + rest[len(authority) :]
    kept = rest if at < 0 else f"{_HIDDEN}{rest[at:]}"
    return _PARAMETER.sub(_hidden_value, kept)


def _is_host(authority: str) -> bool:
    return re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", authority) is not None


def _encoded_at(authority: str) -> bool:
    # No host has an @, so an encoded one belongs to credentials whose own @ is missing.
    return "%40" in authority or "%2540" in authority


def _hidden_value(found: re.Match[str]) -> str:
    # A key may be encoded, more than once, to slip past whoever looks for it.
    name = unquote_plus(unquote_plus(found[2]))
    value = _HIDDEN if _SECRET.search(name) and found[3] else found[3]
    return f"{found[1]}{found[2]}={value}"
