"""The address of an MQTT broker, as a user writes it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.redaction import bare_address, keep_secret
from foldcam.runtime.system.text import printable

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_OPTIONS = ("ca", "client_id")


@dataclass(frozen=True)
class Broker:
    """Where results are published.

    Attributes:
        topic: results go there, events to `TOPIC/events`, and whether the run is alive to
            `TOPIC/status`.
        user, password: None for none.
        client_id: None lets the broker choose.
    """

    host: str
    port: int
    topic: str
    tls: bool
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    ca: str | None
    client_id: str | None
    shown: str


def parse_broker(uri: str) -> Broker:
    """`mqtt://user:password@host:1883/topic`, or `mqtts://host/topic?ca=FILE`.

    User and password are percent-encoded where they hold `@`, `:` or `/`.

    Raises:
        FoldcamError: it is no such address; the message has no credentials.
    """
    keep_secret(uri)
    shown = bare_address(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        reason = "its port is no number up to 65535" if "port" in str(error).lower() else "no URI"
        raise FoldcamError(f"{shown} is no MQTT address: {reason}.") from None
    if parts.scheme not in _PORTS:
        raise FoldcamError(f"{shown} is no MQTT address: it begins with mqtt:// or mqtts://.")
    topic = unquote(parts.path.strip("/")).strip("/")
    if not parts.hostname or not topic.strip("/ "):
        missing = "host" if not parts.hostname else "topic"
        raise FoldcamError(f"{shown} has no {missing}: give mqtt://host:1883/topic.")
    if not _is_host(parts.hostname):
        raise FoldcamError(f"{shown}: what stands for the host is no name and no IP address.")
    if port == 0:
        raise FoldcamError(f"{shown} has port 0, and ports begin at 1: leave it out for 1883.")
    if "#" in uri or set("+#\0") & set(topic) or len(topic.encode("utf-8", "replace")) > 1000:
        raise FoldcamError(f"{shown}: a topic holds neither + nor #, and at most 1000 bytes.")
    if printable(topic) != topic or "\ufffd" in topic:
        raise FoldcamError(f"{shown}: a topic holds text in UTF-8, without control characters.")
    if topic.startswith("$"):
        raise FoldcamError(f"{shown}: topics that begin with $ are the broker's own.")
    options = dict(parse_qsl(parts.query))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        known = " and ".join(_OPTIONS)
        raise FoldcamError(f"{shown} has the option {unknown[0]!r}, and MQTT has {known}.")
    for name, text in (("user", parts.username), ("password", parts.password),
                       ("client_id", options.get("client_id"))):  # fmt: skip
        if text is not None and not _is_short_text(unquote(text)):
            raise FoldcamError(f"{shown}: its {name} is no UTF-8 text of at most 65535 bytes.")
    return Broker(
        host=parts.hostname,
        port=_PORTS[parts.scheme] if port is None else port,
        topic=topic,
        tls=parts.scheme == "mqtts",
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        ca=options.get("ca"),
        client_id=options.get("client_id"),
        shown=f"{parts.scheme}://{bare_address(uri).partition('://')[2].partition('?')[0]}",
    )


def _is_host(host: str) -> bool:
    """Whether it may be asked of a name server, or is an address."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
        return True
    except ValueError:
        pass
    try:
        name = host.encode("idna").decode()
    except UnicodeError:
        return False
    labels = name.removesuffix(".").split(".")
    return len(name) <= 253 and all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", each) for each in labels)


def _is_short_text(text: str) -> bool:
    try:
        return len(text.encode()) <= 65_535 and "\0" not in text and "\ufffd" not in text
    except UnicodeError:
        return False
