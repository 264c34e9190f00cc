"""The wrong inputs are the same for one seed, and harm that one does is found and named."""

from __future__ import annotations

import os
import random
import signal

import pytest

from foldcam.benchmarks.studies.reliability import kills as sound
from foldcam.benchmarks.studies.reliability import mutations, originals
from foldcam.benchmarks.studies.reliability.mutants import mutated_bytes, mutated_json, mutated_text
from foldcam.runtime.images.files import write_image
from foldcam.runtime.pipeline.config import config_from
from foldcam.runtime.pipeline.config.flags import event_table
from foldcam.runtime.pipeline.config.loading import parse_toml
from foldcam.runtime.sinks.mqtt import parse_broker


def test_one_seed_gives_one_corpus():
    pictures = list(originals.images().values())
    for make, given in (
        (mutated_bytes, pictures), (mutated_text, [originals.CONFIG]),
        (mutated_json, ['{"a": [1, {"b": "c"}], "d": null}']),
    ):  # fmt: skip
        first, second, other = (
            [make(random.Random(f"{seed}:{n}"), given) for n in range(50)] for seed in (1, 1, 2)
        )
        assert first == second
        assert first != other
        assert len(set(first)) > 40


def test_the_originals_are_right(tmp_path):
    from foldcam.runtime.images.files import read_image
    from foldcam.runtime.sources import open_source

    config_from(parse_toml(originals.CONFIG, "x"))
    for number, rule in enumerate(originals.RULES):
        event_table(rule, f"event-{number}")
    parse_broker(originals.ADDRESSES[0])
    for name, data in originals.images().items():
        path = tmp_path / f"x{name}"
        path.write_bytes(data)
        assert read_image(path).shape == (36, 48, 3)
    films = originals.videos(tmp_path)
    assert {".mp4", ".avi", ".mkv"} <= films.keys()
    for suffix in films:
        with open_source(file=str(tmp_path / f"original{suffix}")) as source:
            assert len(list(source)) == 12


@pytest.fixture
def tally() -> mutations.Tally:
    return mutations.Tally()


def case(kind: str, data: bytes, suffix: str = ".x") -> mutations.Case:
    return mutations.Case(kind, 0, suffix, data)


def test_answers_are_attributed_to_their_inputs(tmp_path, tally):
    given = [
        case("rule", b"label=owl"), case("rule", b"nonsense"), case("no such kind", b"x"),
        case("rule", b"similarity_below=0"),
    ]  # fmt: skip
    with mutations._Victim(tmp_path / "worker") as victim:
        for each in given:
            mutations._judge(each, victim.read(each), tally, tmp_path / "failures")
    assert tally.outcomes == {
        ("rule", "read"): 2,
        ("rule", "refused"): 1,
        ("no such kind", "failed"): 1,
    }
    (failure,) = tally.failures
    assert failure["outcome"] == "KeyError"
    assert "Traceback" in failure["trace"]
    assert (tmp_path / "failures" / "no such kind-0.x").read_bytes() == b"x"


def test_a_process_that_dies_or_hangs_is_replaced(tmp_path, monkeypatch):
    with mutations._Victim(tmp_path) as victim:
        victim._started().kill()
        victim._started().wait()
        assert victim.read(case("rule", b"label=owl"))["outcome"] == "crashed"
        assert victim.read(case("rule", b"label=owl"))["outcome"] == "read"
        os.kill(victim._started().pid, signal.SIGSTOP)
        monkeypatch.setattr(mutations, "LIMIT_SECONDS", 0.2)
        assert victim.read(case("rule", b"label=owl"))["outcome"] == "hung"
        monkeypatch.undo()
        assert victim.read(case("rule", b"label=owl"))["outcome"] == "read"


def test_a_partial_file_would_be_found(tmp_path, tiny_pictures):
    for path in tiny_pictures:
        assert sound.problem_of(path) is None
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3 - 1])
        assert sound.problem_of(path) is not None, path
        path.write_bytes(b"")
        assert sound.problem_of(path) is not None, path
    assert "nobody knows" in sound.problem_of(tmp_path / "x.unknown")


@pytest.fixture
def tiny_pictures(tmp_path):
    """A whole file of several kinds."""
    import numpy as np

    write_image(tmp_path / "a.jpg", np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "a.json").write_text('{"a": [1, 2, 3]}')
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    originals.videos(tmp_path)
    return [tmp_path / name for name in ("a.jpg", "a.json", "a.jsonl", "original.mp4")]
