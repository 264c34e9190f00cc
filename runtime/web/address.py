"""Where the page is served, and which names may be asked for there."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Iterable

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

BACKLOG = 1024
"""Connections that wait to be accepted."""
# Else the kernel would keep megabytes for every client that does not read.
_SEND_BUFFER = 1 << 18


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The address that a host stands for; IPv4 where it has both."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise FoldcamError(
            f"The live page cannot be served on {printable(shorten(host, 80))}: this name has no "
            "address here (use 127.0.0.1, or 0.0.0.0 for every network)."
        ) from error
    family, _, _, _, place = min(found, key=lambda item: item[0] != socket.AF_INET)
    return family, (str(place[0]), int(place[1]))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a socket bound there."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def bind(family: socket.AddressFamily, place: tuple[str, int]) -> socket.socket:
    """A listening socket."""
    host, port = place
    # The protocol is named, because asyncio sends small answers at once (TCP_NODELAY) only then.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # A restart must not wait for the connections of the last run to be forgotten.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        listener.bind(place)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise FoldcamError(f"The live page {_refusal(error, host, port)}") from error
    return listener


def url_host(host: str) -> str:
    """A host as it is written in a URL."""
    return f"[{host}]" if ":" in host else host


class HostNames:
    """Which `Host` headers are answered.

    A page of somebody else's can make its own name resolve to this machine (DNS rebinding)
    and would then count as the same origin. An address cannot be made to do so, and the
    names that are served are known.
    """

    def __init__(self, host: str, names: Iterable[str] = ()) -> None:
        own = socket.gethostname().lower()
        self._names = {"localhost", host.lower(), own, own.partition(".")[0], f"{own}.local"}
        self._names |= {name.partition(":")[0].lower().rstrip(".") for name in names}

    def __contains__(self, header: object) -> bool:
        """Whether the value of a `Host` header, with or without a port, is ours."""
        if not isinstance(header, str):
            return False
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?", header)
        if match is None:
            return False
        name = match.group(1).strip("[]").rstrip(".").lower()
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _refusal(error: OSError, host: str, port: int) -> str:
    where = f"{url_host(host)}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot be served on {where}: the port is in use; choose another, or 0 for any."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"cannot be served on {where}: ports below 1024 need a right; choose 8080."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot be served on {where}: this machine has no such address; try 0.0.0.0."
    return f"cannot be served on {where}: {error.strerror or error}."
