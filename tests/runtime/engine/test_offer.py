"""A run never builds unasked: it says what it would build, why, and how long that took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from foldcam.runtime.engine.manifest import manifest_path
from foldcam.runtime.engine.offer import decide, duration_text, make_offer
from foldcam.runtime.engine.options import BuildOptions, profiles_for
from foldcam.runtime.system.errors import FoldcamError


def test_an_engine_that_fits_is_used(make_engine, orin):
    engine = make_engine()
    model = engine.with_name("tiny.onnx")
    offer = make_offer(model, orin)
    assert (offer.engine, offer.usable, offer.problem) == (engine, True, "")
    assert decide(model, offer, allowed=False) is False
    assert decide(model, offer, allowed=True) is False


def test_without_an_engine_the_command_is_named_and_nothing_is_built(make_model, orin):
    model = make_model("birds.onnx")
    offer = make_offer(model, orin)
    with pytest.raises(FoldcamError) as caught:
        decide(model, offer, allowed=False, flavour="rtx")
    engine = model.with_suffix(".engine")
    assert str(caught.value) == (
        f"{model} has no engine to run with ({engine} does not exist): add --build, or run "
        f"`runtime build {model} --out {engine} --flavour rtx` first; how long that takes is not "
        "known yet."
    )
    assert decide(model, offer, allowed=True) is True
    assert not engine.exists()


def test_a_stale_engine_says_why_and_how_long_its_build_took(make_engine, orin):
    engine = make_engine(options=BuildOptions(profiles_for([1, 4])))
    model = engine.with_name("tiny.onnx")
    upgraded = replace(orin, tensorrt={"tensorrt": "10.4.0"})
    offer = make_offer(model, upgraded)
    assert not offer.usable
    assert offer.options == BuildOptions(profiles_for([1, 4]))
    with pytest.raises(FoldcamError) as caught:
        decide(model, offer, allowed=False)
    for part in ("10.3.0", "10.4.0", "--batch 1,4", "took 4 min 12 s"):
        assert part in str(caught.value)
    assert decide(model, offer, allowed=True) is True


def test_a_damaged_manifest_is_no_reason_to_fail(make_engine, orin):
    engine = make_engine()
    manifest_path(engine).write_text("{")
    offer = make_offer(engine.with_name("tiny.onnx"), orin)
    assert (offer.usable, offer.last_seconds) == (False, None)
    assert "is not JSON" in offer.problem


def test_only_the_engine_beside_the_model_is_looked_at(make_engine, make_model, orin):
    make_engine()
    looked = []

    def check(path, device, onnx):
        looked.append(path)
        raise FoldcamError("no")

    model = make_model("other.onnx")
    make_offer(model, orin, check)
    assert looked == [Path(model).with_suffix(".engine")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (252.0, "4 min 12 s")],
)
def test_durations_to_read(seconds, text):
    assert duration_text(seconds) == text
