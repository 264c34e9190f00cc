"""A folded model on an inference server, checked against the file here."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from foldcam.runtime.backends.kserve.connection import (
    DATATYPES,
    Answer,
    Connection,
    MessageError,
    json_of,
    parse_server,
    request,
    response,
)
from foldcam.runtime.contract.onnx_file import TensorInfo, read_contract
from foldcam.runtime.contract.schema import IMAGE, QUERY
from foldcam.runtime.contract.tensors import describe, expected_tensors, further_inputs
from foldcam.runtime.engine.deploy.triton import SHA256
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import sha256_of_file
from foldcam.runtime.system.text import printable, shorten

if TYPE_CHECKING:
    from foldcam.runtime.backends.interface import Array

_MOST_METADATA = 4 << 20
_ROOM_FOR_JSON = 1 << 16


class KServeBackend:
    """A folded model that runs on a server."""

    accepted_wrong: str | None = None

    def __init__(self, path: Path, address: str) -> None:
        self.contract = read_contract(path)
        if self.contract.bank_input is not None:
            raise FoldcamError(
                f"{path}: a bank that is an input cannot run on a server: fold the model without "
                "--bank-input."
            )
        self._path = path
        self._server = parse_server(address, path.stem)
        self.device = str(self._server)
        self._connection = Connection(self._server)
        # One connection: calls from several threads take turns.
        self._lock = threading.Lock()
        image, self._outputs = expected_tensors(self.contract)
        self._inputs = [image, *further_inputs(self.contract)]
        self._model = f"/v2/models/{quote(self._server.name, safe='')}"
        self._most: int | None = None
        try:
            self.name = self._server_title()
            self._check_tensors()
            self._check_file()
        except BaseException:
            self._connection.close()
            raise

    def run(self, images: Array) -> dict[str, Array]:
        """One forward pass; see `runtime.backends.Backend.run`."""
        most = self._most or len(images)
        with self._lock:
            parts = [
                self._run(images[start : start + most]) for start in range(0, len(images), most)
            ]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _run(self, images: Array) -> dict[str, Array]:
        rows = len(images)
        arrays = {IMAGE: images}
        if self.contract.query:
            size = self.contract.bank.embedding_size
            arrays[QUERY] = np.zeros((rows, size), np.float32)
        body, headers = request(arrays, [tensor.name for tensor in self._outputs])
        expected = sum(4 * rows * _numbers(tensor) for tensor in self._outputs)
        # Numbers as text, of a server without the binary extension, are longer.
        most = 8 * expected + _ROOM_FOR_JSON
        answer = self._connection.ask("POST", f"{self._model}/infer", body, headers, most=most)
        if answer.status != 200:
            raise self._refused(answer)
        try:
            return response(answer.body, answer.headers, self._outputs, rows)
        except MessageError as error:
            raise self._wrong(str(error)) from error

    def _server_title(self) -> str:
        document = self._document("/v2")
        name, version = (str(document.get(key, "")) for key in ("name", "version"))
        return printable(shorten(f"{name or 'KServe v2'} {version}".strip(), 60))

    def _check_tensors(self) -> None:
        """Compare what the server says of its model with the contract."""
        metadata = self._document(self._model)
        for kind, expected in (("inputs", self._inputs), ("outputs", self._outputs)):
            listed = metadata.get(kind)
            found = {
                each.get("name"): each
                for each in (listed if isinstance(listed, list) else [])
                if isinstance(each, dict)
            }
            for tensor in expected:
                if not _same(tensor, found.get(tensor.name)):
                    raise FoldcamError(
                        f"The model {self._server} is another one than {self._path}: of its "
                        f"{kind} {tensor.name!r} is not {describe(tensor)}; serve this file, by "
                        "`runtime deploy`."
                    )

    def _check_file(self) -> None:
        """Compare the file by its hash, where the server says it; take up its largest batch."""
        answer = self._connection.ask("GET", f"{self._model}/config", most=_MOST_METADATA)
        config: dict[str, Any] = {}
        if answer.status == 200:
            try:
                config = json_of(answer.body)
            except MessageError as error:
                raise self._wrong(str(error)) from error
        most = config.get("max_batch_size")
        self._most = most if type(most) is int and most > 0 else None
        served = _parameter(config, SHA256)
        if served is None:
            print(
                f"note: {self._server} does not say which file it serves: only its tensors were "
                "compared.",
                file=sys.stderr,
            )
        elif served != sha256_of_file(self._path):
            raise FoldcamError(
                f"The model {self._server} was made from another file than {self._path} (SHA-256 "
                f"{printable(shorten(served, 16))}): name that file, or serve this one, by "
                "`runtime deploy`."
            )

    def _document(self, path: str) -> dict[str, Any]:
        answer = self._connection.ask("GET", path, most=_MOST_METADATA)
        if answer.status != 200:
            raise self._refused(answer)
        try:
            return json_of(answer.body)
        except MessageError as error:
            raise self._wrong(str(error)) from error

    def _wrong(self, clause: str) -> FoldcamError:
        return FoldcamError(
            f"The inference server {self._server} does not speak KServe v2 as it should: {clause}."
        )

    def _refused(self, answer: Answer) -> FoldcamError:
        if answer.status in (401, 403):
            return FoldcamError(
                f"The inference server {self._server} lets nobody in without a password: write it "
                "into the address, as in http://user:password@host:8000/birds."
            )
        try:
            said = str(json_of(answer.body).get("error") or "no reason given")
        except MessageError:
            said = "no reason given"
        reason = printable(shorten(said, 200)).rstrip(".")
        return FoldcamError(
            f"The inference server refused {self._server} (status {answer.status}): {reason}."
        )


def _numbers(tensor: TensorInfo) -> int:
    """Numbers per image."""
    return int(np.prod([int(size) for size in tensor.shape[1:]], dtype=np.int64))


def _same(expected: TensorInfo, found: dict[str, Any] | None) -> bool:
    """Whether a server's tensor is the expected one; a size of -1 may be any."""
    if found is None or found.get("datatype") != DATATYPES[expected.dtype]:
        return False
    shape = found.get("shape")
    if not isinstance(shape, list):
        return False
    # One number per image is served with one more size, see `runtime.engine.deploy.triton`.
    wanted: Sequence[int | str] = expected.shape if len(expected.shape) > 1 else ("N", 1)
    if len(expected.shape) == 1 and len(shape) == 1:
        wanted = expected.shape
    return len(shape) == len(wanted) and all(
        isinstance(want, str) or have in (-1, want, str(want), "-1")
        for want, have in zip(wanted, shape, strict=True)
    )


def _parameter(config: dict[str, Any], name: str) -> str | None:
    parameters = config.get("parameters")
    value = parameters.get(name) if isinstance(parameters, dict) else None
    text = value.get("string_value") if isinstance(value, dict) else None
    return text if isinstance(text, str) else None
