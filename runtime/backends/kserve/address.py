"""Where a served model is: `http://host:8000/birds`."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.redaction import keep_secret, redacted

_PORTS = {"http": 8000, "https": 443}


@dataclass(frozen=True)
class ServedModel:
    """The address of a model.

    Attributes:
        scheme: `http` or `https`.
        host, port: of the server; Triton's HTTP port is 8000.
        authorization: the header's value; None without a user in the address.
    """

    scheme: str
    host: str
    port: int
    prefix: str
    name: str
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}/{self.name}"


def parse_server(address: str, default_name: str) -> ServedModel:
    """Read an address.

    Args:
        address: `http://host:8000/birds`, `https://user:password@host/prefix/birds`.
        default_name: of the model where the address names none.
    """
    keep_secret(address)
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise FoldcamError(
            f"--server {redacted(address)} is no address of a served model: give one such as "
            "http://host:8000/birds (KServe v2 over HTTP; Triton's port for it is 8000)."
        )
    prefix, _, name = parts.path.rstrip("/").rpartition("/")
    authorization = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Basic {base64.b64encode(login).decode()}"
    return ServedModel(
        parts.scheme, parts.hostname, port or _PORTS[parts.scheme], prefix,
        unquote(name) or default_name, authorization,
    )  # fmt: skip
