"""The document at `/openapi.json`, and whether `/explain` does what it promises."""

from __future__ import annotations

import json
import logging
import os
import urllib.request

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.sources.options import ServeOptions
from foldcam.runtime.system.monitor import Monitor
from foldcam.runtime.web import LivePage
from foldcam.runtime.web.explain import openapi_document

# `FOLDCAM_SCHEMATHESIS=2000` runs as many as the released check does.
CASES = int(os.environ.get("FOLDCAM_SCHEMATHESIS", "200"))
PICTURE = bytes(cv2.imencode(".png", np.full((20, 30, 3), 90, np.uint8))[1])
TOKEN = "a-token-for-this-check-alone"


def pictures() -> st.SearchStrategy[bytes]:
    """Whole ones, ones that are cut or changed, and no pictures."""
    place = st.integers(0, len(PICTURE))
    changed = st.builds(
        lambda at, new: PICTURE[:at] + new + PICTURE[at + len(new) :], place, st.binary(max_size=6)
    )
    heads = st.sampled_from([b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"RIFF....WEBP", b"P6 "])
    headed = st.builds(lambda head, rest: head + rest, heads, st.binary(max_size=200))
    return st.one_of(st.just(PICTURE), changed, headed, st.binary(max_size=200))


@pytest.fixture(scope="module", params=["tiny_model", "tiny_estimator"])
def served(request):
    """A page behind a token, of a model of labels and of one with an estimate."""
    with FoldedModel.load(request.getfixturevalue(request.param), "cpu", 1) as model:
        options = ServeOptions(port=0, token=TOKEN)
        with LivePage(options, Monitor(), model.contract, model=model) as page:
            yield page.url.rstrip("/"), openapi_document(model.contract)


def test_the_document_names_what_the_page_serves(served):
    url, document = served
    asked = urllib.request.Request(
        f"{url}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert json.load(answer) == document


@pytest.mark.parametrize("given_token", [True, False], ids=["token", "without"])
def test_explain_does_what_its_document_promises(served, given_token, caplog):
    url, document = served
    # A second and a half, which no other test has a use for.
    import schemathesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    operation = schemathesis.openapi.from_dict(document)["/explain"]["POST"]
    seen: list[int] = []

    @settings(
        max_examples=CASES // 4, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(), picture=st.one_of(st.none(), pictures()))
    def check(case, picture):
        if picture is not None:
            case.body = picture
        headers = {"Authorization": f"Bearer {TOKEN}"} if given_token else {}
        response = case.call(base_url=url, headers=headers)
        # That not all bytes are a picture, no schema can say.
        no_picture = [] if picture == PICTURE else [positive_data_acceptance]
        case.validate_response(response, excluded_checks=no_picture)
        seen.append(response.status_code)

    with caplog.at_level(logging.ERROR):
        check()
    assert 500 not in seen
    assert set(seen) <= ({200, 400} if given_token else {401})
    assert not [record for record in caplog.records if record.name.startswith("foldcam")]
