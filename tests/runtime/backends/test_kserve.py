"""A model on an inference server, against a server that speaks the protocol with real bytes."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from foldcam.runtime.backends import open_backend
from foldcam.runtime.backends.kserve import connection
from foldcam.runtime.backends.kserve.connection import parse_server
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

DTYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT32": np.int32}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class Stub:
    """A server of one model, as Triton answers; its fields make it answer otherwise."""

    def __init__(self, path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.name = "tiny"
        self.most = 4
        self.batches: list[int] = []
        self.headers: list[dict[str, str]] = []
        self.binary = True
        self.busy = 0  # answers that are 503
        self.broken = 0  # connections that break off
        self.change = lambda path, document: document
        self.config = True
        self.delay = 0.0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self, b"")

            def do_POST(self) -> None:
                server.answer(self, self.rfile.read(int(self.headers["content-length"])))

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.http.server_port}/tiny"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, request, body: bytes) -> None:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if request.path.endswith("/infer"):
            time.sleep(self.delay)
            if self.broken:
                self.broken -= 1
                request.connection.shutdown(socket.SHUT_RDWR)
                request.close_connection = True
                return
            if self.busy:
                self.busy -= 1
                self.send(request, 503, b'{"error": "busy"}')
                return
        model = f"/v2/models/{self.name}"
        if request.path == "/v2":
            self.send_json(request, {"name": "triton", "version": "2.54.0", "extensions": []})
        elif request.path == model:
            self.send_json(request, self.metadata())
        elif request.path == f"{model}/config" and self.config:
            parameters = {"foldcam_sha256": {"string_value": self.sha256}} if self.sha256 else {}
            self.send_json(request, {"max_batch_size": self.most, "parameters": parameters})
        elif request.path == f"{model}/infer":
            self.infer(request, body)
        else:
            self.send(request, 404, b'{"error": "Request for unknown model: not found"}')

    def metadata(self):
        def tensors(found):
            types = {"tensor(float)": "FP32", "tensor(uint8)": "UINT8", "tensor(int32)": "INT32"}
            return [
                {"name": each.name, "datatype": types[each.type],
                 "shape": [-1, *(each.shape[1:] or [1])]}
                for each in found
            ]  # fmt: skip

        return {
            "name": self.name,
            "platform": "onnxruntime_onnx",
            "inputs": tensors(self.session.get_inputs()),
            "outputs": tensors(self.session.get_outputs()),
        }

    def infer(self, request, body: bytes) -> None:
        length = int(request.headers["inference-header-content-length"])
        asked, at, feeds = json.loads(body[:length]), length, {}
        for each in asked["inputs"]:
            size = each["parameters"]["binary_data_size"]
            raw = np.frombuffer(body[at : at + size], DTYPES[each["datatype"]])
            feeds[each["name"]], at = raw.reshape(each["shape"]), at + size
        assert at == len(body)
        rows = len(feeds["image"])
        assert rows <= self.most
        self.batches.append(rows)
        names = [each["name"] for each in asked["outputs"]]
        outputs, data = [], []
        for name, array in zip(names, self.session.run(names, feeds), strict=True):
            if array.ndim == 1:
                array = array[:, None]  # as `reshape` in its configuration has it
            head = {"name": name, "datatype": NAMES[array.dtype], "shape": list(array.shape)}
            if self.binary:
                data.append(array.tobytes())
                outputs.append({**head, "parameters": {"binary_data_size": len(data[-1])}})
            else:
                outputs.append({**head, "data": array.ravel().tolist()})
        head = json.dumps(self.change("infer", {"model_name": self.name, "outputs": outputs}))
        more = {"Inference-Header-Content-Length": str(len(head))} if self.binary else {}
        self.send(request, 200, head.encode() + b"".join(data), more)

    def send_json(self, request, document) -> None:
        self.send(request, 200, json.dumps(self.change(request.path, document)).encode())

    @staticmethod
    def send(request, status: int, body: bytes, headers=None) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


@pytest.fixture
def stub(tiny_model):
    made = Stub(tiny_model)
    yield made
    made.close()


@pytest.fixture
def serve():
    """`serve(path)`: a server of that model."""
    made = []

    def start(path):
        made.append(Stub(path))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(connection, "WAITS", (0.01, 0.01))


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).random((10, 3, 8, 8), np.float32)


def same(ours, theirs) -> None:
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(ours[name], array)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("which", ["tiny_model", "tiny_estimator", "explained"])
def test_the_answers_are_those_of_the_file(request, make_model, which, binary, pictures):
    if which == "explained":
        path = make_model(contract=request.getfixturevalue(which)("contribution", "contrast"))
    else:
        path = request.getfixturevalue(which)
    stub = Stub(path)
    stub.binary = binary
    try:
        remote, local = open_backend(path, server=stub.address), open_backend(path, "cpu")
        same(remote.run(pictures), local.run(pictures))
        assert stub.batches == [4, 4, 2]  # no more at once than the server takes
        assert (remote.name, remote.device) == ("triton 2.54.0", stub.address)
    finally:
        stub.close()


def test_bytes_are_sent_as_bytes(make_model, contract_with):
    path = make_model(contract=dataclasses.replace(contract_with(), input_type="uint8"))
    stub = Stub(path)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    same(open_backend(path, server=stub.address).run(images), open_backend(path).run(images))
    stub.close()


def test_results_are_ones_own_memory(stub, tiny_model, pictures):
    outputs = open_backend(tiny_model, server=stub.address).run(pictures[:1])
    outputs["embedding"][:] = 0


def test_the_model_s_name_is_the_file_s_unless_given(stub, tiny_model):
    address = stub.address.removesuffix("/tiny")
    assert open_backend(tiny_model, server=address).device == stub.address


def test_one_connection_serves_all_passes(stub, tiny_model, pictures):
    backend = open_backend(tiny_model, server=stub.address)
    client = backend._connection._client
    for _ in range(3):
        backend.run(pictures[:1])
    assert backend._connection._client is client


@pytest.mark.parametrize("trouble", ["busy", "broken"])
def test_a_server_that_fails_twice_is_asked_again(stub, tiny_model, pictures, trouble):
    backend = open_backend(tiny_model, server=stub.address)
    setattr(stub, trouble, 2)
    same(backend.run(pictures[:1]), open_backend(tiny_model, "cpu").run(pictures[:1]))
    setattr(stub, trouble, 3)
    with pytest.raises(FoldcamError, match="busy" if trouble == "busy" else "No inference server"):
        backend.run(pictures[:1])
    same(backend.run(pictures[:1]), open_backend(tiny_model, "cpu").run(pictures[:1]))


def test_a_server_that_is_too_slow_is_one_sentence(stub, tiny_model, pictures, monkeypatch):
    monkeypatch.setattr(connection, "SECONDS", 0.2)
    backend = open_backend(tiny_model, server=stub.address)
    stub.delay = 1.0
    with pytest.raises(FoldcamError, match="did not answer within"):
        backend.run(pictures[:1])


def test_a_server_that_is_away_is_one_sentence(tiny_model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(FoldcamError, match=r"No inference server answers .*refused; start it"):
            open_backend(tiny_model, server=f"http://127.0.0.1:{port}/tiny")


def test_another_file_is_refused_by_its_hash(stub, tiny_model):
    stub.sha256 = "f" * 64
    with pytest.raises(FoldcamError, match="from another file"):
        open_backend(tiny_model, server=stub.address)


@pytest.mark.parametrize("config", [True, False])
def test_a_server_that_does_not_say_its_file_is_noted(stub, tiny_model, pictures, capsys, config):
    stub.sha256, stub.config = "", config
    stub.most = 16
    open_backend(tiny_model, server=stub.address).run(pictures)
    assert "only its tensors were compared" in capsys.readouterr().err
    assert stub.batches == [10]


def test_another_model_is_refused_by_its_tensors(stub, tiny_model):
    def narrower(path, document):
        if path == "/v2/models/tiny":
            document["outputs"][0]["shape"] = [-1, 7]
        return document

    stub.change = narrower
    with pytest.raises(FoldcamError, match=r"another one than .*'embedding' is not float32"):
        open_backend(tiny_model, server=stub.address)


def test_a_model_that_is_not_there_is_the_servers_own_reason(stub, tiny_model):
    with pytest.raises(FoldcamError, match=r"refused http.*/other \(status 404\): Request for unk"):
        open_backend(tiny_model, server=stub.address.replace("/tiny", "/other"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"outputs": []}, {"outputs": None}, {"outputs": [1]}, {"outputs": "x"}, [],
        {"outputs": [{"name": "embedding", "datatype": "FP32",
                      "parameters": {"binary_data_size": 10**9}}]},
        {"outputs": [{"name": "embedding", "datatype": "FP64",
                      "parameters": {"binary_data_size": 12}}]},
        {"outputs": [{"name": "embedding", "datatype": "FP32",
                      "parameters": {"binary_data_size": 8}}]},
        {"outputs": [{"name": "embedding", "datatype": "FP32",
                      "parameters": {"binary_data_size": -1}}]},
        {"outputs": [{"name": "embedding", "datatype": "FP32", "data": ["x"]}]},
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_one_sentence(stub, tiny_model, pictures, wrong):
    backend = open_backend(tiny_model, server=stub.address)
    stub.change = lambda path, document: wrong
    with pytest.raises(FoldcamError, match="does not speak KServe v2 as it should") as caught:
        backend.run(pictures[:1])
    assert "\n" not in str(caught.value)


def test_an_endless_answer_is_not_read(stub, tiny_model, pictures):
    backend = open_backend(tiny_model, server=stub.address)
    stub.change = lambda path, document: {"outputs": [], "more": "x" * 1_000_000}
    with pytest.raises(FoldcamError, match="more than"):
        backend.run(pictures[:1])


def test_user_and_password_are_sent_and_never_shown(stub, tiny_model, capsys):
    address = stub.address.replace("http://", "http://me:se%40cret@")
    backend = open_backend(tiny_model, server=address)
    expected = f"Basic {base64.b64encode(b'me:se@cret').decode()}"
    assert {headers.get("authorization") for headers in stub.headers} == {expected}
    assert "cret" not in f"{backend.device}{backend.name}{backend._server!r}"
    stub.close()
    with pytest.raises(FoldcamError) as caught:
        open_backend(tiny_model, server=address)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["", "host:8000", "grpc://host:8001/m", "http:///m", "http://host:x/m", "http://host/m?a=1"],
)
def test_what_is_no_address_is_one_sentence(address):
    with pytest.raises(FoldcamError, match="is no address of a served model"):
        parse_server(address, "tiny")


def test_the_parts_of_an_address():
    server = parse_server("https://[::1]/behind/a/proxy/b%20d/", "tiny")
    assert (server.host, server.port, server.prefix, server.name) == (
        "::1", 443, "/behind/a/proxy", "b d"
    )  # fmt: skip
    assert str(server) == "https://[::1]:443/behind/a/proxy/b d"


def test_a_server_and_a_library_exclude_each_other(tiny_model):
    with pytest.raises(FoldcamError, match="leave out --backend"):
        open_backend(tiny_model, "cpu", server="http://127.0.0.1:1/tiny")


def test_a_run_against_a_server_is_a_run(stub, tiny_model, runtime, photo, tmp_path):
    photo("red.png", (210, 40, 20))
    photo("blue.png", (20, 40, 210))
    stub.busy = 2
    done = runtime(
        "run", tiny_model, "--file", tmp_path / "photos", "--server", stub.address, "--jsonl", "-"
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line)["neighbors"][0]["label"] for line in done.stdout.splitlines()]
    assert said == ["blue", "red"]
    stub.sha256 = "0" * 64
    done = runtime("run", tiny_model, "--file", tmp_path / "photos", "--server", stub.address)
    assert done.returncode == 1
    assert "from another file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_is_opened_again_after_its_server_came_back(stub, tiny_model, photo):
    with FoldedModel.load(tiny_model, server=stub.address) as model:
        picture = photo("red.png", (210, 40, 20))
        stub.broken = 3
        with pytest.raises(FoldcamError):
            model(picture)
        model.reopen()
        assert model(picture).answer == "red"


def test_a_server_is_shown_the_probe_pictures_at_each_opening(serve, make_probed):
    model = make_probed()
    served = serve(model)
    for opened in (1, 2):
        open_backend(model, server=served.address).close()
        assert served.batches == [1] * 3 * opened


def test_a_server_that_answers_wrongly_is_refused(serve, make_probed, wrong_network, capsys):
    model = make_probed(change=wrong_network)
    served = serve(model)
    with pytest.raises(FoldcamError, match=r"answers wrongly in triton .* or leave out --server"):
        open_backend(model, server=served.address)
    open_backend(model, server=served.address, accept_wrong=True).close()
    assert "answers wrongly" in capsys.readouterr().err
