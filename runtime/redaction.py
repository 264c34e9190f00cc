"""Credentials in addresses, taken out of everything that is shown, logged or written.

`redacted` is for running text: it finds the addresses in it and leaves of each what is no secret.
`bare_address` is for the name of one source, whose query goes as a whole.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from runtime.text import printable

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s\"'<>]*)")
_SECRET = re.compile(
    r"token|key|pass|pwd|secret|auth|signature|credential|session|jwt|^(sig|user|code|sid)$",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"([?&;#])([^=&;#?]*)=([^&;#]*)")
_ONE_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?::[0-9]{1,5})?")
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


def bare_address(uri: str) -> str:
    """The URI without user name, password and query, for messages and outputs.

    Whatever does not look like `host:port` is hidden: a password with a `/` in it ends up
    in the path. Queries are hidden because cameras take tokens there.

    Example:
        >>> bare_address("rtsp://me:secret@camera:554/live?stream=1")
        'rtsp://***@camera:554/live?***'
    """
    match = _ONE_ADDRESS.match(uri)
    if match is None:
        return uri
    scheme, rest = match.groups()
    before, mark, _ = rest.partition("?")
    before, hash_, _ = before.partition("#")
    authority, slash, path = before.partition("/")
    secret, at, host = authority.rpartition("@")
    if "@" in path and (at or not _HOST.fullmatch(authority)):
        host, slash, path = path.rpartition("@")[2].partition("/")
        at = "@"
    elif not at:
        host = secret or host
    if not _HOST.fullmatch(host):
        # What was taken for a host may be the front half of a password.
        return f"{scheme}://{_HIDDEN}"
    shown = f"{scheme}://{_HIDDEN + '@' if at else ''}{host}{slash}{path}"
    return printable(shown) + (f"{mark or hash_}{_HIDDEN}" if mark or hash_ else "")


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
