"""The address of an MQTT broker, as a user writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from runtime.errors import FoldcamError
from runtime.redaction import bare_address

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_OPTIONS = ("ca", "client_id")


@dataclass(frozen=True)
class Broker:
    """Where results are published.

    Attributes:
        host, port: of the broker.
        topic: results go there, events to `TOPIC/events`, and whether the run is alive to
            `TOPIC/status`.
        tls: whether the connection is encrypted and the broker's certificate checked.
        user, password: None for none.
        ca: a file of certificates in place of the system's.
        client_id: None lets the broker choose.
        shown: the address without credentials.
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
    shown = bare_address(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        reason = "its port is no number up to 65535" if "port" in str(error).lower() else "no URI"
        raise FoldcamError(f"{shown} is no MQTT address: {reason}.") from None
    if parts.scheme not in _PORTS:
        raise FoldcamError(f"{shown} is no MQTT address: it begins with mqtt:// or mqtts://.")
    topic = unquote(parts.path.strip("/"))
    if not parts.hostname or not topic:
        missing = "host" if not parts.hostname else "topic"
        raise FoldcamError(f"{shown} has no {missing}: give mqtt://host:1883/topic.")
    if "#" in uri or set("+#\0") & set(topic) or len(topic.encode("utf-8", "replace")) > 1000:
        raise FoldcamError(f"{shown}: a topic holds neither + nor #, and at most 1000 bytes.")
    options = dict(parse_qsl(parts.query))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        known = " and ".join(_OPTIONS)
        raise FoldcamError(f"{shown} has the option {unknown[0]!r}, and MQTT has {known}.")
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
