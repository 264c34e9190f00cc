"""Results to an MQTT broker, which may come and go."""

from __future__ import annotations

import ipaddress
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import Boxes, place_of, record
from foldcam.runtime.sinks.base import NotWritten, Sink
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.logs import log
from foldcam.runtime.system.redaction import bare_address, keep_secret
from foldcam.runtime.system.text import printable, quantity

_MOST_WAITING = 200
_MOST_EVENTS = 1000
_BACKOFF_S = (1, 30)
_FAREWELL_S = 2.0
_PATIENCE_S = 5.0
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_OPTIONS = ("ca", "client_id")


class MqttSink(Sink):
    """Publishes one message per region of a frame; a live source never waits for the broker.

    While there is no connection, results are lost and counted, and events wait (1000 at most).
    It connects, and connects again, in a thread of its own, with growing pauses. `TOPIC/status`
    holds `online` or `offline`, the latter also when the process was killed.

    Args:
        patient: for recorded sources, whose frames shall not be lost: wait for the broker, but
            not for one that was away for five seconds.
    """

    name = "mqtt"

    def __init__(
        self, uri: str, embedding: bool = True, patient: bool = False, boxes: Boxes | None = None
    ) -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._embedding, self._patient, self._boxes = embedding, patient, boxes
        self._broker = parse_broker(uri)
        self.output = self._broker.shown
        self._paho = paho
        self._lock = threading.Lock()
        # Numbers of messages that are not sent yet.
        self._results: set[int] = set()
        self._events: set[int] = set()
        self._lost, self._lost_events = 0, 0
        self._refused = ""
        self._left = False
        self._client = _client_class(paho, lambda: self._left)(
            CallbackAPIVersion.VERSION2, client_id=self._broker.client_id or ""
        )
        try:
            _prepare(self._client, self._broker)
        except ValueError as error:
            raise FoldcamError(f"{self._broker.shown} cannot be used: {error}.") from error
        self._client.reconnect_delay_set(*_BACKOFF_S)
        self._client.max_queued_messages_set(_MOST_EVENTS)
        self._client.will_set(f"{self._broker.topic}/status", "offline", qos=1, retain=True)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_publish = self._published

    def __enter__(self) -> MqttSink:
        self._client.connect_async(self._broker.host, self._broker.port, keepalive=30)
        self._client.loop_start()
        return self

    def close(self, failed: bool) -> None:  # noqa: ARG002
        """Say goodbye to the broker, and count what was not sent."""
        if self._client.is_connected():
            self._client.publish(f"{self._broker.topic}/status", "offline", qos=1, retain=True)
            # What is on its way gets a moment; a broker that is gone does not hold up the end.
            deadline = time.monotonic() + _FAREWELL_S
            while time.monotonic() < deadline and self._client.is_connected() and self._busy():
                time.sleep(0.01)
        self._count_unsent()
        self._left = True
        self._client.disconnect()
        # Its thread may be waiting for a name server or a host that does not answer.
        ender = threading.Thread(target=self._client.loop_stop, daemon=True)
        ender.start()
        ender.join(_FAREWELL_S)

    def write(self, item: FrameResults) -> None:
        """Publish one message per region; a frame without regions has one, too."""
        if self._patient and not self._has_room():
            self._wait_for_room()
        if not self._client.is_connected():
            raise NotWritten(self._refused or f"{self._broker.shown} is not connected")
        documents: list[dict[str, Any]] = [
            record(item.frame, result, self._embedding, self._boxes) for result in item.results
        ] or [{**place_of(item.frame), "regions": 0}]
        for document in documents:
            text = json.dumps(document, allow_nan=False)
            with self._lock:
                if len(self._results) >= _MOST_WAITING:
                    raise NotWritten(f"{self._broker.shown} takes less than there is")
                sent = self._client.publish(self._broker.topic, text, qos=0)
                if sent.rc != self._paho.MQTT_ERR_SUCCESS:
                    raise NotWritten(f"{self._broker.shown} is not connected")
                self._results.add(sent.mid)

    def publish_event(self, event: dict[str, Any]) -> None:
        """Publish an event; it waits for the connection if there is none."""
        text = json.dumps(event, allow_nan=False)
        with self._lock:
            sent = self._client.publish(f"{self._broker.topic}/events", text, qos=1)
            refused = sent.rc == self._paho.MQTT_ERR_QUEUE_SIZE
            if refused:
                self._lost_events += 1
            else:
                self._events.add(sent.mid)
        if refused:
            log.warning("an event for %s is lost: too many wait", self._broker.shown)

    def losses(self) -> tuple[int, str]:
        """Results and events that were taken and not sent, and why."""
        with self._lock:
            waiting = len(self._events) if self._left else 0
            results, events = self._lost, self._lost_events + waiting
        return results + events, self._why_lost(events)

    def _why_lost(self, events: int) -> str:
        why = self._refused or f"{self._broker.shown} was away"
        if events:
            why += f"; {quantity(events, 'event')} did not get there"
        return why

    def _count_unsent(self) -> None:
        """What waits now is lost: its connection is gone, or will be."""
        with self._lock:
            self._lost += len(self._results)
            self._results.clear()

    def _has_room(self) -> bool:
        with self._lock:
            return bool(self._client.is_connected()) and len(self._results) < _MOST_WAITING // 2

    def _wait_for_room(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not self._has_room() and not self._refused:
            if time.monotonic() > deadline:
                self._patient = False
                return
            time.sleep(0.002)

    def _busy(self) -> bool:
        client: Any = self._client  # the queue is not public, and there is no other way to ask
        with self._lock:
            return bool(self._results) or bool(client._out_messages)

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, extra: Any) -> None:  # noqa: ARG002
        if reason.is_failure:
            text = f"{self._broker.shown} refuses the connection: {reason}"
            if text != self._refused:
                log.warning("%s", text)
            self._refused = text
            return
        self._refused = ""
        self._count_unsent()  # it went with the old connection
        log.info("connected to %s", self._broker.shown)
        client.publish(f"{self._broker.topic}/status", "online", qos=1, retain=True)

    def _disconnected(self, client: Any, data: Any, flags: Any, reason: Any, extra: Any) -> None:  # noqa: ARG002
        if not self._refused and reason.is_failure:
            log.warning("%s is gone (%s); trying again", self._broker.shown, reason)

    def _published(self, client: Any, data: Any, number: int, *_: Any) -> None:  # noqa: ARG002
        with self._lock:
            self._results.discard(number)
            self._events.discard(number)


def _client_class(paho: Any, left: Callable[[], bool]) -> Any:
    """The library's client, whose thread does not die with a traceback.

    While it connects, `disconnect` takes away the socket that it is about to use; and what a name
    server or a broker answers can be stranger than the library expects.
    """

    class Client(paho.Client):  # type: ignore[misc]
        def _thread_main(self) -> None:
            while True:
                try:
                    super()._thread_main()
                    return
                except Exception as error:
                    if left():
                        return
                    log.warning("the connection to the broker failed: %s; trying again", error)
                    time.sleep(_BACKOFF_S[0])

    return Client


def _prepare(client: Any, broker: Broker) -> None:
    if broker.user is not None:
        client.username_pw_set(broker.user, broker.password)
    if broker.tls:
        try:
            client.tls_set(ca_certs=broker.ca)
        except (OSError, ValueError) as error:  # ssl's errors are OSErrors
            raise FoldcamError(
                f"{broker.shown}: the certificates in {broker.ca} cannot be read: {error}."
            ) from error


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
