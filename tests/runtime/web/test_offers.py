"""Unknown regions that are offered for a name, and learned."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import numpy as np
import pytest

from foldcam.runtime.contract.bank.bank_file import read_bank
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.web import offers as module
from foldcam.runtime.web.offers import Offers


@pytest.fixture(autouse=True)
def every_frame(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)


def direction(number: int) -> np.ndarray:
    """Twenty that are far from each other."""
    angle = 0.3 * number
    return np.array([np.cos(angle), np.sin(angle), 0], np.float32)


def row(similarity: float) -> np.ndarray:
    return np.array([similarity, 0.1], np.float32)


def test_known_regions_and_those_like_an_offered_one_are_not_offered(living, make_item):
    contract, bank = living
    offers = Offers(bank, contract)
    offers.look(make_item(0, unknown=False))
    assert offers.document() == []
    offers.look(make_item(1, unknown=True))
    offers.look(make_item(2, unknown=True))
    assert [each["nearest"] for each in offers.document()] == ["red"]


def test_of_many_unknown_regions_the_last_are_kept_at_a_small_size(living, make_item):
    contract, bank = living
    offers = Offers(bank, contract)
    for number in range(20):
        offers.look(make_item(number, unknown=True, size=(800, 600), embedding=direction(number)))
    kept = [each["number"] for each in offers.document()]
    assert kept == list(range(20, 20 - module.MOST, -1))
    assert offers.picture(20).shape == (180, 240, 3)
    assert offers.picture(1) is None


def test_without_a_rule_the_least_similar_are_kept(living, make_item):
    contract, bank = living
    offers = Offers(bank, contract)
    for number in range(20):
        similarity = row(0.3 + 0.01 * (number * 7 % 20))
        offers.look(make_item(number, embedding=direction(number), similarities=similarity))
    kept = sorted(each["similarity"] for each in offers.document())
    assert kept == pytest.approx([0.3 + 0.01 * at for at in range(module.MOST)], abs=1e-4)


def test_what_is_learned_is_in_the_bank_and_offered_no_more(living, make_item):
    contract, bank = living
    offers = Offers(bank, contract)
    item = make_item(unknown=True, embedding=np.array([0, 0, 5], np.float32))
    offers.look(item)
    offers.learn("anna", [1])
    kept = read_bank(bank)
    assert [run.name for run in kept.labels] == ["anna", "green", "red"]
    np.testing.assert_array_equal(kept.embeddings[0], [0, 0, 1])
    assert kept.names[0].startswith("live/")
    assert offers.document() == []
    with pytest.raises(FoldcamError, match="no longer offered"):
        offers.learn("anna", [1])


def learn(served, token: str, body: dict[str, object], **headers: str):
    sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    sent["Authorization"] = f"Bearer {token}"
    return served.get("/api/learn", "POST", urlencode(body), **sent)


def test_the_page_s_request_learns_and_others_are_refused(serve, living, make_item, token):
    contract, bank = living
    served = serve(contract, bank=bank, token=token)
    item = make_item(unknown=True, embedding=np.array([0, 0, 5], np.float32))
    served.feed(item)
    bearer = {"Authorization": f"Bearer {token}"}
    offered = json.loads(served.get("/api/status", **bearer).content)["unnamed"]
    assert [each["number"] for each in offered] == [1]
    assert served.get("/api/unknown.jpg?number=1", **bearer).content[:2] == b"\xff\xd8"
    before = bank.read_bytes()
    good = {"label": "猫", "picture": 1}
    for refused, status in (
        (served.get("/api/learn", "POST", urlencode(good)), 401),
        (learn(served, token, good, Origin="https://elsewhere.example"), 403),
        (learn(served, token, {"label": " ", "picture": 1}), 400),
        (learn(served, token, {"label": "x"}), 400),
        (learn(served, token, {"label": "x" * 3000, "picture": 1}), 400),
        (learn(served, token, {"label": "a\u202eb", "picture": 1}), 409),
        (learn(served, token, {"label": "x", "picture": 99}), 409),
        (served.get("/api/learn", "GET", **bearer), 405),
        (served.get("/api/status", "POST", "x=1", **bearer), 413),
    ):
        assert refused.status == status
    assert bank.read_bytes() == before
    done = learn(served, token, good)
    assert done.status == 200
    assert "1 picture of 猫 learned" in done.content.decode()
    assert "猫" in [run.name for run in read_bank(bank).labels]


def test_without_a_token_or_a_bank_nothing_can_be_learned(serve, living, make_item, token):
    contract, bank = living
    for served in (serve(contract, bank=bank), serve(token=token)):
        served.feed(make_item(unknown=True))
        bearer = {"Authorization": f"Bearer {token}"}
        assert json.loads(served.get("/api/status", **bearer).content)["unnamed"] is None
        assert learn(served, token, {"label": "x", "picture": 1}).status == 404
