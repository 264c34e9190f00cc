"""Credentials in addresses, taken out of everything that is shown, logged or written.

- `redacted` is for running text: it finds the addresses in it and leaves of each what is no secret.
- `bare_address` is for the name of one source, whose query goes as a whole.
- `keep_secret` is given each address that a user typed. Where an address ends cannot be seen in
  running text if its password holds a blank or a quote, and a library may quote a part of it: what
  was given is known word for word, and is taken out wherever it stands.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from foldcam.runtime.system.text import printable

_HIDDEN = "***"
_SECRET = re.compile(
    r"token|key|pas|pwd|psw|secret|auth|signature|credential|session|jwt|login|^(sig|user|usr|"
    r"username|account|code|sid|pin|pw|u|p)$",
    re.IGNORECASE,
)
_NAME_OF_USER = re.compile(r"user|usr|username|u|account|login|loginuse", re.IGNORECASE)
# A path made of an address has one slash: `Path("rtsp://camera")` is `rtsp:/camera`.
_SCHEME = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://|\b(?:rtsps?|https?|mqtts?|tcp|udp|rtmps?|ftps?|s3):/", re.I
)
_PLAIN = re.compile(r"[^\s\"'<>]*")
# A password with a quote or a bracket: no blank until the @. One with a blank: anything until it.
_TO_AT_WITHOUT_BLANK = re.compile(r"[\"'<>](?:(?!://)[^\s@]){0,200}@[^\s\"'<>]*")
_TO_AT = re.compile(r"(?:(?!://)[^\n@]){0,200}@[^\s\"'<>]*")
_ONE_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?::(?:[0-9]{1,5}|port)?)?", re.I)
_LOOSE_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:(\d*|port))?", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r"([?&;#/,])([^=&;#?/,]*)=([^&;#]*)")
# As recorders write it: user=admin_password=secret_channel=1.
_UNDERSCORED = re.compile(r"_([A-Za-z]+)=([^&;#/]*)")
_NAMED_SEGMENT = re.compile(
    r"/(token|access_token|api_?key|key|password|passwd|pwd|pass|secret)/([^/?#&;]+)", re.IGNORECASE
)
_PAIR_IN_PATH = re.compile(r"(^|[/;&,])([^/;&,=]*)=")
_LOGIN_IN_PATH = re.compile(r"(^|/)[^/?#]*:[^?#]*@", re.DOTALL)

# As passwords they are known to everybody, and messages need them as words.
_NAMES = {"password", "passwd", "token"}
_MOST_KNOWN = 64
_LONGEST_KNOWN = 2000
_SHORTEST_WORD = 4


def redacted(text: str) -> str:
    """The text with user names, passwords and secret parameters of every address as `***`.

    A password with an `@`, `/`, `?`, `#`, a quote, a bracket or a blank that should have been
    percent-encoded is hidden, too: what stands before the last `@` goes if the address cannot
    be meant otherwise. So is every address given to `keep_secret`, and its password alone.

    Example:
        >>> redacted("rtsp://me:se@cret@camera/live?token=42&stream=1 is gone")
        'rtsp://***@camera/live?token=***&stream=1 is gone'
    """
    return _without_addresses(_known.taken_out(text))


def redacted_value(value: Any) -> Any:
    """Strings in a JSON value without the secrets of the addresses in them.

    For data, such as labels and names of files: a password's own letters stay where they are not
    part of an address, since a label may be the same word.
    """
    if isinstance(value, str):
        return _without_addresses(_known.taken_out(value, words=False)) if ":/" in value else value
    if isinstance(value, dict):
        return {key: redacted_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted_value(inner) for inner in value]
    return value


def bare_address(uri: str) -> str:
    """The URI without user name, password and query, for messages and outputs.

    Whatever does not look like `host:port` is hidden: a password with a `/` in it ends up
    in the path. Queries are hidden because cameras take tokens there, and so is what follows
    the name of a secret in the path.

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
    shown = f"{scheme}://{_HIDDEN + '@' if at else ''}{host}{slash}{_bare_path(path)}"
    return printable(shown) + (f"{mark or hash_}{_HIDDEN}" if mark or hash_ else "")


def keep_secret(address: str) -> None:
    """Remember an address that a user gave, so that `redacted` takes it out wherever it stands.

    What is no address, or has no credentials, is not remembered.

    Args:
        address: as it was given, with or without the option before it (`--source=rtsp://...`).
    """
    found = _SCHEME.search(address)
    if found is not None:
        _known.add(address[found.start() :])


class _Known:
    """What must not be shown, word for word; of the last `_MOST_KNOWN` addresses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[str, str] = {}
        self._patterns: tuple[re.Pattern[str] | None, re.Pattern[str] | None] | None = None

    def add(self, address: str) -> None:
        shown = bare_address(address)
        if shown == printable(address) or len(address) > _LONGEST_KNOWN:
            return
        with self._lock:
            if address not in self._shown:
                while len(self._shown) >= _MOST_KNOWN:
                    del self._shown[next(iter(self._shown))]
                self._shown[address] = shown
                self._patterns = None

    def taken_out(self, text: str, words: bool = True) -> str:
        if not self._shown:
            return text
        whole, word = self._patterns or self._compiled()
        if whole is not None:
            text = whole.sub(self._replacement, text)
        if words and word is not None:
            text = word.sub(_HIDDEN, text)
        return text

    def _compiled(self) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
        with self._lock:
            words = {word for address in self._shown for word in _words(address)} - _NAMES
            # Not in the middle of another word: of "open" in "reopened" nothing can be learnt.
            self._patterns = _any_of(self._shown, 1, ""), _any_of(words, _SHORTEST_WORD, r"\b")
            return self._patterns

    def _replacement(self, found: re.Match[str]) -> str:
        with self._lock:
            known = dict(self._shown)
        for address, shown in known.items():
            if found.group() in _forms(address):
                return shown
        return _HIDDEN


_known = _Known()


def _forms(text: str) -> set[str]:
    """How a text may be written: as it is, quoted by Python or JSON, escaped, percent-encoded."""
    shown = {
        text,
        text.replace("://", ":/", 1),
        repr(text)[1:-1],
        json.dumps(text)[1:-1],
        printable(text),
    }
    coded = {quote(text, safe, errors="surrogateescape") for safe in ("", "/")}
    coded |= {unquote(text), unquote_plus(text)}
    return (shown | coded) - {""}


def _words(address: str) -> Iterable[str]:
    """The password and the secret values of an address."""
    rest = address.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login = rest.rpartition("@")[0]
    if "@" in authority or (login and not _HOST.fullmatch(authority)):
        if "@" in authority and not re.search(r"[/?#].*@", rest):
            login = authority.rpartition("@")[0]
        name, colon, password = login.partition(":")
        yield password if colon else name
    for found in _PARAMETER.finditer(rest):
        name = unquote_plus(unquote_plus(found[2]))
        # Of who logs in only the name is lost, which is a word like "admin".
        if _SECRET.search(name) and not _NAME_OF_USER.fullmatch(name):
            yield found[3]
    for found in _UNDERSCORED.finditer(rest):
        if _SECRET.search(found[1]) and not _NAME_OF_USER.fullmatch(found[1]):
            yield re.split(r"_[A-Za-z]+=", found[2], maxsplit=1)[0]
    for found in _NAMED_SEGMENT.finditer(rest):
        yield found[2]
    if found_login := _LOGIN_IN_PATH.search(rest.partition("/")[2]):
        yield found_login.group().rpartition("@")[0].partition(":")[2]


def _any_of(texts: Iterable[str], least: int, edge: str) -> re.Pattern[str] | None:
    def escaped(text: str) -> str:
        before = edge if text[0].isalnum() else ""
        after = edge if text[-1].isalnum() else ""
        return f"{before}{re.escape(text)}{after}"

    forms = {form for text in texts for form in _forms(text) if len(form) >= least}
    longest_first = sorted(forms, key=len, reverse=True)
    return re.compile("|".join(map(escaped, longest_first))) if forms else None


def _without_addresses(text: str) -> str:
    if ":/" not in text:
        return text
    parts: list[str] = []
    at = 0
    for found in _SCHEME.finditer(text):
        if found.start() < at:
            continue  # an address within the address before
        end = _end(text, found.end())
        parts += [text[at : found.end()], _without_secrets(text[found.end() : end])]
        at = end
    return "".join([*parts, text[at:]])


def _end(text: str, start: int) -> int:
    """Where the address ends whose scheme ends at `start`."""
    plain = _PLAIN.match(text, start)
    assert plain is not None
    end = plain.end()
    if longer := _TO_AT_WITHOUT_BLANK.match(text, end):
        return longer.end()
    authority = re.split(r"[/?#]", text[start:end], maxsplit=1)[0]
    half = "@" not in text[start:end] and _LOOSE_HOST.fullmatch(authority) is None
    if half and (longer := _TO_AT.match(text, end)):
        return longer.end()
    return end


def _bare_path(path: str) -> str:
    plain = unquote(unquote(path))
    hidden = _LOGIN_IN_PATH.sub(rf"\1{_HIDDEN}@", path)
    hidden = _NAMED_SEGMENT.sub(rf"/\1/{_HIDDEN}", f"/{hidden}")[1:]
    for found in _PAIR_IN_PATH.finditer(hidden):
        if _SECRET.search(unquote_plus(unquote_plus(found[2]))):
            return hidden[: found.end()] + _HIDDEN
    if hidden == path and plain != path and _bare_path(plain) != plain:
        return _HIDDEN  # encoded to slip past whoever looks for it
    return hidden


def _without_secrets(rest: str) -> str:
    end = re.search(r"[/?#]", rest)
    authority = rest[: end.start()] if end else rest
    at = authority.rfind("@")
    if at < 0 and not _LOOSE_HOST.fullmatch(authority):
        # `user:pa/ss@host`: what looks like host and port is user and half a password.
        at = rest.rfind("@")
        if at < 0:
            return _HIDDEN + _tail(rest[len(authority) :])
    if at < 0 and _encoded_at(authority):
        return _HIDDEN + _tail(rest[len(authority) :])
    if at < 0:
        return authority + _tail(rest[len(authority) :])
    host = re.match(r"@[^/?#]*", rest[at:])
    assert host is not None
    return f"{_HIDDEN}{host.group()}{_tail(rest[at + host.end() :])}"


def _tail(tail: str) -> str:
    """Path, query and fragment without what is secret in them."""
    end = re.search(r"[?#]", tail)
    path = tail[: end.start()] if end else tail
    # A colon and an @ further on are a login, as in /rtsp://me:secret@camera.
    first = path.find("@")
    if first >= 0 and (colon := path.find(":", 0, path.rfind("@"))) >= 0:
        begin = path.rfind("/", 0, colon) + 1
        path = f"{path[:begin]}{_HIDDEN}{path[path.rfind('@') :]}"
    tail = path + (tail[end.start() :] if end else "")
    tail = _NAMED_SEGMENT.sub(rf"/\1/{_HIDDEN}", tail)
    return _PARAMETER.sub(_hidden_value, tail)


def _encoded_at(authority: str) -> bool:
    # No host has an @, so an encoded one belongs to credentials whose own @ is missing.
    return "%40" in authority or "%2540" in authority


def _hidden_value(found: re.Match[str]) -> str:
    # A key may be encoded, more than once, to slip past whoever looks for it.
    name = unquote_plus(unquote_plus(found[2]))
    secret = found[3] and (_SECRET.search(name) or _holds_secret(found[3]))
    return f"{found[1]}{found[2]}={_HIDDEN if secret else found[3]}"


def _holds_secret(value: str) -> bool:
    """Whether a value is an address with a login, or has a parameter of its own."""
    plain = unquote_plus(unquote_plus(value[:10_000]))
    colon = plain.find(":")
    if 0 <= colon < plain.rfind("@"):
        return True
    pairs = re.finditer(r"([^=&;#?/,]{0,200})=", plain)
    return any(_SECRET.search(pair[1]) for pair in pairs)
