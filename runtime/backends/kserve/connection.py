"""Requests to an inference server: one connection that is kept, bounded in time and in size."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.onnx_file import TensorInfo
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.redaction import keep_secret, redacted
from foldcam.runtime.system.text import printable, shorten

SECONDS = 10.0
"""One attempt, from the request to the last byte of its answer."""
WAITS = (0.1, 0.4)
"""Seconds before a second and a third attempt; there is no fourth."""
_BUSY = (429, 503)
_PART = 1 << 16
_PORTS = {"http": 8000, "https": 443}
HEADER_LENGTH = "inference-header-content-length"
DATATYPES = {"float32": "FP32", "uint8": "UINT8", "int32": "INT32"}
Array = npt.NDArray[Any]


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


@dataclass(frozen=True)
class Answer:
    """What came back: lower-case headers, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """HTTP/1.1 to a server, opened when it is needed and again after a failure."""

    def __init__(self, server: ServedModel, sleep: Callable[[float], None] = time.sleep) -> None:
        self._server = server
        self._sleep = sleep
        self._client: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        most: int,
    ) -> Answer:
        """One answer, whatever its status."""
        for wait in (*WAITS, None):
            try:
                answer = self._once(method, path, body, headers or {}, most)
            except TimeoutError as error:
                self.close()
                raise FoldcamError(
                    f"The inference server {self._server} did not answer within {SECONDS:.0f} s: "
                    "it is overloaded, or the network between is."
                ) from error
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if wait is None:
                    raise self._away(error) from error
            else:
                if answer.status not in _BUSY or wait is None:
                    return answer
            self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], most: int
    ) -> Answer:
        deadline = time.monotonic() + SECONDS
        client = self._client or self._opened()
        self._client = client
        if self._server.authorization is not None:
            headers = {**headers, "authorization": self._server.authorization}
        client.request(method, f"{self._server.prefix}{path}", body, headers)
        response = client.getresponse()
        parts, size = [], 0
        while part := response.read1(_PART):
            parts.append(part)
            size += len(part)
            if size > most:
                raise http.client.HTTPException(f"its answer has more than {most} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError
        names = {name.lower(): value for name, value in response.getheaders()}
        if response.length:
            raise http.client.IncompleteRead(b"".join(parts), response.length)
        # Not done by `read1`; without it the connection takes no further request.
        response.close()
        return Answer(response.status, names, b"".join(parts))

    def _opened(self) -> http.client.HTTPConnection:
        host, port = self._server.host, self._server.port
        if self._server.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=SECONDS)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=SECONDS, context=context)

    def _away(self, error: Exception) -> FoldcamError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return FoldcamError(
            f"No inference server answers at {self._server}: "
            f"{printable(shorten(str(reason), 200)).rstrip('.')}; start it, or correct the address "
            "(KServe v2 over HTTP; Triton's port for it is 8000)."
        )


class MessageError(Exception):
    """What came is not what the protocol or the model promises, as a clause."""


def request(arrays: Mapping[str, Array], outputs: Iterable[str]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an inference.

    Args:
        arrays: the inputs by name, of the dtypes of `DATATYPES`.
    """
    inputs, data = [], []
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        data.append(raw)
        inputs.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": DATATYPES[str(array.dtype)],
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    head = json.dumps({"inputs": inputs, "outputs": wanted}).encode()
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *data]), headers


def response(
    body: bytes, headers: Mapping[str, str], expected: Sequence[TensorInfo], rows: int
) -> dict[str, Array]:
    """The outputs of an inference."""
    length = headers.get(HEADER_LENGTH, str(len(body)))
    if not (length.isascii() and length.isdecimal() and int(length) <= len(body)):
        raise MessageError("its header has a length that is none")
    outputs = json_of(body[: int(length)]).get("outputs")
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise MessageError("its answer has no outputs")
    at, found = int(length), {}
    for output in outputs:
        parameters = output.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        data = output.get("data")
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(body) - at:
                raise MessageError("its answer ends before its tensors do")
            data, at = body[at : at + size], at + size
        found[str(output.get("name"))] = (output.get("datatype"), data)
    return {tensor.name: _array(tensor, found.get(tensor.name), rows) for tensor in expected}


def json_of(body: bytes) -> dict[str, Any]:
    """A JSON object."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise MessageError("its answer is no JSON object")
    return document


def _array(tensor: TensorInfo, found: tuple[Any, Any] | None, rows: int) -> Array:
    if found is None:
        raise MessageError(f"its answer has no {tensor.name!r}")
    datatype, data = found
    shape = [rows, *(int(size) for size in tensor.shape[1:])]
    wanted = np.dtype(tensor.dtype)
    try:
        if datatype != DATATYPES[tensor.dtype]:
            raise ValueError
        if isinstance(data, bytes):
            # Its own memory, which the caller may keep and write to.
            array = np.frombuffer(data, wanted.newbyteorder("<")).astype(wanted)
        else:
            array = np.asarray(data, wanted)
        return array.reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise MessageError(
            f"its {tensor.name!r} is not the {tensor.dtype} {shape} of the model's metadata"
        ) from None
