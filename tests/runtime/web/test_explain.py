"""`POST /explain`: one picture in, its answer and its map out."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.web import explain
from foldcam.runtime.web.explain import preferred

FORMS = {"json": "application/json", "png": "image/png"}


def png(color=(200, 30, 20), width=60, height=40) -> bytes:
    image = np.full((height, width, 3), color[::-1], np.uint8)
    return bytes(cv2.imencode(".png", image)[1])


@pytest.fixture
def model(tiny_model):
    with FoldedModel.load(tiny_model, "cpu", 1) as opened:
        yield opened


@pytest.fixture
def served(serve, model):
    return serve(model=model)


def test_the_answer_is_the_models_own(served, model, photo):
    answer = served.get("/explain", "POST", png((20, 40, 210)))
    said = json.loads(answer.content)
    alone = model(photo("blue.png", (20, 40, 210), width=60, height=40))
    assert (answer.status, said["answer"]) == (200, "blue")
    assert said["neighbors"][0] == {
        "row": 0, "label": "blue", "similarity": pytest.approx(alone.similarities[0])
    }  # fmt: skip
    assert said["map"]["values"] == pytest.approx(alone.heatmap, abs=1e-6)
    assert said["map"]["place"] == {"x": 0, "y": 0, "width": 60, "height": 40}
    assert not {"embedding", "source"} & set(said)


def test_the_embedding_comes_if_it_is_asked_for(served, model, photo):
    said = json.loads(served.get("/explain?embedding=true", "POST", png()).content)
    alone = model(photo("red.png", (200, 30, 20), width=60, height=40))
    assert said["embedding"] == pytest.approx(alone.embedding)


@pytest.mark.parametrize(
    ("path", "accept"), [("/explain?as=png", "*/*"), ("/explain", "image/png, */*;q=0.5")]
)
def test_a_png_is_the_picture_with_its_heat_and_a_caption(served, path, accept):
    answer = served.get(path, "POST", png(width=300, height=100), Accept=accept)
    assert answer.getheader("content-type") == "image/png"
    drawn = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape[0] > 100
    assert drawn.shape[1] == 300
    assert np.abs(drawn[:100].astype(int) - (20, 30, 200)).max() > 20


def test_a_large_picture_is_drawn_small_with_its_heat_in_the_same_place(served, monkeypatch):
    image = np.zeros((80, 80, 3), np.uint8)
    image[:40, :40] = 255
    whole = bytes(cv2.imencode(".png", image)[1])
    drawn = []
    for side in (80, 40):
        monkeypatch.setattr("foldcam.runtime.web.explainer.SIDE", side)
        answer = served.get("/explain?as=png", "POST", whole)
        drawn.append(cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR))
    assert drawn[1].shape[1] == 40
    halved = cv2.resize(drawn[0][:80], (40, 40), interpolation=cv2.INTER_AREA)
    assert np.abs(halved.astype(int) - drawn[1][:40]).mean() < 8


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/explain", b"GIF89a", "The picture is truncated"),
        ("/explain", b"no picture", "The picture is not an image"),
        ("/explain", png()[:-20], "truncated"),
        ("/explain", b"", "There is no picture"),
        ("/explain?map=contrast", png(), "no map 'contrast'"),
        ("/explain?as=gif", png(), "as is one of json, png"),
        ("/explain?as=png&as=json", png(), "each once"),
        ("/explain?like=this", png(), "takes as, map, embedding"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(served, path, body, sentence):
    answer = served.get(path, "POST", body)
    said = answer.content.decode()
    assert (answer.status, said.count("\n")) == (400, 1)
    assert sentence in said


def test_a_picture_too_large_is_refused_though_it_is_still_being_sent(served, monkeypatch):
    monkeypatch.setattr(explain, "MAX_UPLOAD", 1 << 20)
    answer = served.get("/explain", "POST", bytes(3 << 19))
    assert answer.status == 413
    assert served.get("/explain", "POST", png()).status == 200


def test_without_the_token_nothing_is_explained(serve, model, token):
    served = serve(model=model, token=token)
    for path in ("/explain", "/openapi.json"):
        assert served.get(path, "POST", png()).status == 401
    bearer = {"Authorization": f"Bearer {token}"}
    assert served.get("/explain", "POST", png(), **bearer).status == 200
    assert served.get("/openapi.json", **bearer).status == 200
    other = {"Origin": "http://elsewhere.example", **bearer}
    assert served.get("/explain", "POST", png(), **other).status == 403


def test_a_page_without_a_model_explains_nothing(serve):
    assert serve().get("/explain", "POST", png()).status == 404


def blocked(model, monkeypatch) -> threading.Event:
    """A model whose passes wait until the event is set."""
    release, forward = threading.Event(), model.forward

    def waiting(batch, query=None):
        release.wait(20)
        return forward(batch, query)

    monkeypatch.setattr(model, "forward", waiting)
    return release


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def route(served):
    return next(each.app for each in served.page.routes() if each.path == "/explain")


def test_too_many_pictures_are_refused_with_a_time_to_come_back(served, model, monkeypatch):
    monkeypatch.setattr(explain, "MOST_WAITING", 3)
    release = blocked(model, monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(served.get, "/explain", "POST", png()) for _ in range(8)]
        until(lambda: sum(each.done() for each in asked) == 5)
        refused = [each.result() for each in asked if each.done()]
        assert {answer.status for answer in refused} == {503}
        assert all(int(answer.getheader("retry-after")) >= 1 for answer in refused)
        assert served.get("/healthz").status in (200, 503)  # others are answered meanwhile
        release.set()
        assert sorted(each.result().status for each in asked) == [200] * 3 + [503] * 5
    until(lambda: (route(served)._held, route(served)._waiting) == (0, 0))


def test_pictures_together_hold_no_more_than_their_memory(served, model, monkeypatch):
    monkeypatch.setattr(explain, "MAX_TOGETHER", 100_000)
    picture = png() + bytes(60_000)
    release = blocked(model, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(served.get, "/explain", "POST", picture)
        until(lambda: route(served)._waiting == 1)
        assert served.get("/explain", "POST", picture).status == 503
        assert route(served)._held == len(picture)
        release.set()
        first.result()
    until(lambda: route(served)._held == 0)
    assert served.get("/explain", "POST", png()).status == 200


def test_who_waits_too_long_is_told_so(served, model, monkeypatch):
    monkeypatch.setattr(explain, "WAIT_SECONDS", 0.1)
    release = blocked(model, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(served.get, "/explain", "POST", png())
        until(lambda: route(served)._waiting == 1)
        assert served.get("/explain", "POST", png()).status == 503
        release.set()
        assert first.result().status == 200  # what has begun is finished


def begun(served, body: bytes, declared: int) -> socket.socket:
    client = socket.create_connection((served.host, served.port), timeout=10)
    head = f"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: {declared}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def test_the_picture_of_a_client_that_went_away_is_not_computed(served, model, monkeypatch):
    release = blocked(model, monkeypatch)
    answered = []
    explainer = served.page._explainer
    answer = explainer.answer
    monkeypatch.setattr(
        explainer, "answer", lambda *given: answered.append(1) or answer(*given)
    )  # fmt: skip
    executor, pictures = served.page._executors[-1], []
    submit = executor.submit
    monkeypatch.setattr(
        executor, "submit", lambda work, *given: pictures.append(given[0]) or submit(work, *given)
    )
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(served.get, "/explain", "POST", png())
        until(lambda: route(served)._waiting == 1)
        leaver = begun(served, png(), len(png()))
        until(lambda: route(served)._waiting == 2)
        leaver.close()
        until(lambda: route(served)._waiting == 1)
        assert pictures[1:] == [[]]  # nothing of it is kept in the queue
        release.set()
        assert first.result().status == 200
    assert len(answered) == 1
    until(lambda: route(served)._held == 0)


def test_a_client_that_sends_slowly_is_ended_and_holds_up_nobody(served, monkeypatch):
    monkeypatch.setattr(explain, "UPLOAD_SECONDS", 0.3)
    with begun(served, png()[:20], len(png())) as slow:
        assert served.get("/explain", "POST", png()).status == 200
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
    with begun(served, png()[:20], len(png())):
        pass  # breaks off
    until(lambda: route(served)._held == 0)
    assert served.get("/explain", "POST", png()).status == 200


def test_a_client_that_reads_nothing_holds_its_answer_and_no_more(served, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), np.uint8)
    picture = bytes(cv2.imencode(".jpg", noise)[1])
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((served.host, served.port))
    head = f"POST /explain?as=png HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(picture)}"
    client.sendall(f"{head}\r\n\r\n".encode() + picture)
    held = len(picture)
    until(lambda: route(served)._waiting == 0 and route(served)._held > held)
    assert served.get("/explain", "POST", png()).status == 200
    client.close()
    until(lambda: route(served)._held == 0)


def test_a_model_that_fails_is_503_with_its_reason(served, model, monkeypatch):
    model._backend.close()
    answer = served.get("/explain", "POST", png())
    assert (answer.status, answer.getheader("retry-after")) == (503, "10")
    assert answer.content.decode().endswith("was closed.\n")


def test_the_parts_of_an_answer_s_time_are_said(served):
    timing = served.get("/explain", "POST", png()).getheader("server-timing")
    assert [part.partition(";")[0] for part in timing.split(", ")] == [
        "wait", "read", "network", "write"
    ]  # fmt: skip


def test_explained_pictures_and_frames_take_turns_and_keep_their_answers(served, model, photo):
    colors = {"blue": (20, 40, 210), "green": (30, 200, 40), "red": (210, 40, 20)}
    photos = {name: photo(f"{name}.png", color) for name, color in colors.items()}
    wrong = []

    def run() -> None:
        for name, path in list(photos.items()) * 30:
            if model(path).answer != name:
                wrong.append(name)

    thread = threading.Thread(target=run)
    thread.start()
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda name: served.get("/explain", "POST", png(colors[name])), [*colors] * 20)
        )
    thread.join()
    assert [json.loads(each.content)["answer"] for each in answers] == [*colors] * 20
    assert not wrong


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "json"), ("*/*", "json"), ("text/html", "json"), ("image/png", "png"),
        ("image/*", "png"), ("application/json, image/png", "json"),
        ("application/json;q=0.2, image/png;q=0.3", "png"), ("image/png;q=0", "json"),
        ("image/png;q=x, */*", "json"), ("IMAGE/PNG", "png"), (";;q==,=", "json"),
    ],
)  # fmt: skip
def test_what_a_client_likes_best(accept, kind):
    assert preferred(accept, FORMS) == kind


HEADERS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
WORDS = st.sampled_from(
    ["as", "map", "embedding", "png", "json", "contrast", "true", "&", "=", "%"]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.one_of(
        st.binary(max_size=300),
        st.integers(0, 130).flatmap(
            lambda at: st.binary(max_size=9).map(lambda new: png()[:at] + new + png()[at:])
        ),
    ),
    query=st.lists(WORDS, max_size=6).map("".join),
    accept=HEADERS,
)
def test_no_request_is_a_fault_of_ours(lasting, body, query, accept):
    answer = lasting.get(f"/explain?{query}", "POST", body, Accept=accept)
    assert answer.status in (200, 400)
    if answer.status == 400:
        assert answer.content.endswith(b".\n")
