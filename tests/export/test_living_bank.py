"""A bank that lives on the device: learned, answered by a running process, forgotten."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch

from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.models.spec import wrap_module
from foldcam.runtime.contract.bank.bank_file import (
    add_rows,
    change_bank,
    read_bank,
    remove_rows,
    undo,
    write_bank,
)
from foldcam.runtime.contract.bank.live_bank import bank_path
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.files import read_image, write_image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.pipeline.config import ModelOptions, RunConfig, SourceConfig
from foldcam.runtime.pipeline.opening import opened
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sources.base import Frame, Source
from foldcam.runtime.system.errors import FoldcamError

_SIZE = (24, 32)


@pytest.fixture(scope="module")
def exported(normalized, shared_photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("living") / "model.onnx"
    export_model(normalized, load_dataset(shared_photos), out, options=FoldOptions(bank_input=True))
    return out


@pytest.fixture
def model(exported, tmp_path):
    """The model and its bank in a folder of the test's own."""
    for path in (exported, bank_path(exported)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / exported.name


@pytest.fixture
def anna(tmp_path):
    """Five pictures of a label that the bank does not have."""
    generator = np.random.default_rng(5)
    for number in range(5):
        image = generator.integers(0, 40, (*_SIZE, 3)).astype(np.uint8)
        image[4:14, 6:18] = 250, 30, 220
        write_image(tmp_path / "anna" / f"{number}.png", image)
    return tmp_path / "anna"


@cache
def _program():
    """tests/runtime/in_process.py: importlib mode has no import path to it."""
    path = Path(__file__).parents[1] / "runtime" / "in_process.py"
    spec = importlib.util.spec_from_file_location("foldcam_test_in_process", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _runtime(*arguments):
    return _program().call([str(each) for each in arguments], Path.cwd(), os.environ)


def _row(bank, at):
    return bank.embeddings[at].tobytes()


def test_a_label_is_learned_listed_undone_learned_and_forgotten(model, anna):
    before = read_bank(bank_path(model))
    added = _runtime("bank", "add", model, "--label", "anna", "--images", anna, "--json")
    assert added.returncode == 0, added.stderr
    report = json.loads(added.stdout)
    assert (report["added"], report["rows"], report["labels"]) == (5, before.rows + 5, 4)
    again = json.loads(
        _runtime("bank", "add", model, "--label", "anna", "--images", anna, "--json").stdout
    )
    assert (again["added"], len(again["known"])) == (0, 5)
    other = _runtime("bank", "add", model, "--label", "bob", "--images", anna)
    assert other.returncode == 1
    assert other.stdout.count("is in the bank as 'anna'") == 5
    listed = json.loads(_runtime("bank", "list", model, "--json").stdout)
    (mine,) = [each for each in listed["labels"] if each["label"] == "anna"]
    assert mine == {"label": "anna", "rows": 5, "pictures": [f"{n}.png" for n in range(5)]}
    undone = _runtime("bank", "undo", model)
    assert "the label anna is gone" in undone.stdout
    assert read_bank(bank_path(model)).sha256 == before.sha256
    nothing = _runtime("bank", "undo", model)
    assert nothing.returncode == 1
    assert "nothing to undo" in nothing.stderr


def test_what_is_removed_is_nowhere_in_the_file(model, anna):
    _runtime("bank", "add", model, "--label", "anna", "--images", anna)
    bank = read_bank(bank_path(model))
    rows = [_row(bank, at) for at, label in enumerate(bank.row_labels()) if label == "anna"]
    assert all(row in bank_path(model).read_bytes() for row in rows)
    removed = _runtime("bank", "remove", model, "--label", "anna", "--json")
    assert json.loads(removed.stdout)["labels_gone"] == ["anna"]
    # The hidden files beside it, too, which the change has left.
    for path in model.parent.iterdir():
        if path.is_file():
            data = path.read_bytes()
            assert not any(row in data for row in rows), path.name
            assert b"anna" not in data, path.name
    assert "nothing to undo" in _runtime("bank", "undo", model).stderr


def test_names_of_files_that_are_no_text_and_labels_of_joined_letters_are_kept(model, anna):
    data = (anna / "0.png").read_bytes()
    for path in anna.iterdir():
        path.unlink()
    (anna / os.fsdecode(b"no\xfftext.png")).write_bytes(data)
    label = "آلبا\u200cتروس"

    done = _runtime("bank", "add", model, "--label", label, "--images", anna)

    assert done.returncode == 0, done.stderr
    bank = read_bank(bank_path(model))
    assert label in [run.name for run in bank.labels]
    assert "no\\udcfftext.png" in bank.names


def test_pictures_are_removed_by_name(model, anna):
    _runtime("bank", "add", model, "--label", "anna", "--images", anna)
    removed = _runtime("bank", "remove", model, "--image", "[01].png", "--json")
    assert json.loads(removed.stdout)["labels"] == {"anna": 2}
    missing = _runtime("bank", "remove", model, "--image", "none.png")
    assert missing.returncode == 1
    assert "No picture in the bank is called none.png" in missing.stderr


def test_a_wrong_label_is_one_sentence_that_names_the_right_one(model):
    wrong = _runtime("bank", "remove", model, "--label", "gren")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "did you mean 'green'" in wrong.stderr


def test_a_model_with_its_bank_inside_is_refused(folded_file):
    refused = _runtime("bank", "list", folded_file)
    assert refused.returncode == 1
    assert "foldcam fold --bank-input" in refused.stderr


def test_a_running_model_takes_up_the_bank_and_gives_it_up_again(model, anna):
    contract = read_contract(model)
    with FoldedModel.load(model, "cpu", 1) as running:
        picture = read_image(anna / "0.png")
        assert running(picture).answer != "anna"
        assert running.take_up_bank() is False
        embeddings = np.stack([running(read_image(each)).embedding for each in anna.iterdir()])
        hashes = np.arange(5 * 32, dtype=np.uint8).reshape(5, 32)
        add_rows(bank_path(model), contract, "anna", embeddings, [f"{n}" for n in range(5)], hashes)
        assert running.take_up_bank() is True
        learned = running(picture)
        assert learned.answer == "anna"
        assert learned.contribution.shape == learned.heatmap.shape
        bank_path(model).write_bytes(b"damaged")
        with pytest.raises(FoldcamError, match="is not a bank, or it is damaged"):
            running.take_up_bank()
        assert running.take_up_bank() is False
        assert running(picture).answer == "anna"


def test_the_map_of_a_new_label_is_the_one_that_a_new_export_gives(
    model, anna, networks, preprocessing, shared_photos, tmp_path
):
    _runtime("bank", "add", model, "--label", "anna", "--images", anna)
    everything = tmp_path / "all"
    for path in [*shared_photos.rglob("*.png"), *anna.glob("*.png")]:
        out = everything / path.parent.name / path.name
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(path.read_bytes())
    torch.manual_seed(0)
    loaded = wrap_module(networks.Normalized().eval(), preprocessing=preprocessing, name="net:make")
    export_model(loaded, load_dataset(everything), tmp_path / "whole.onnx")
    picture = read_image(anna / "3.png")
    with (
        FoldedModel.load(model, "cpu", 1) as one,
        FoldedModel.load(tmp_path / "whole.onnx", "cpu", 1) as other,
    ):
        a, b = one(picture), other(picture)
    assert a.answer == b.answer == "anna"
    np.testing.assert_allclose(a.contribution, b.contribution, atol=1e-6)
    np.testing.assert_allclose(a.heatmap, b.heatmap, atol=1e-5)


def test_two_processes_never_lose_each_other_s_rows(model):
    before = read_bank(bank_path(model))
    contract, size = read_contract(model), before.embeddings.shape[1]

    def enroll(worker):
        generator = np.random.default_rng(worker)
        for number in range(10):
            rows = generator.normal(size=(2, size)).astype(np.float32)
            hashes = generator.integers(1, 256, (2, 32)).astype(np.uint8)
            add_rows(bank_path(model), contract, f"label {worker} {number}", rows, ["", ""], hashes)

    workers = [threading.Thread(target=enroll, args=(worker,)) for worker in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    after = read_bank(bank_path(model))
    assert after.rows == before.rows + 4 * 10 * 2
    assert len(after.labels) == len(before.labels) + 40


_ENROLLING = """
import sys, numpy as np
from pathlib import Path, PurePath
from foldcam.runtime.contract.bank.bank_file import add_rows
from foldcam.runtime.pipeline.config import ModelOptions, RunConfig, SourceConfig
from foldcam.runtime.contract.onnx_file import read_contract
model, size = Path(sys.argv[1]), int(sys.argv[2])
contract = read_contract(model)
print("ready", flush=True)
number = 0
while True:
    rows = np.random.default_rng().normal(size=(3, size)).astype(np.float32)
    hashes = np.random.default_rng().integers(1, 256, (3, 32)).astype(np.uint8)
    add_rows(model.with_suffix(".bank"), contract, "killed", rows, ["", "", ""], hashes)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_while_it_adds_leaves_the_old_bank_or_the_new_one(model, seed):
    size = read_bank(bank_path(model)).embeddings.shape[1]
    rows = read_bank(bank_path(model)).rows
    generator = np.random.default_rng(seed)
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", _ENROLLING, str(model), str(size)], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(float(generator.uniform(0, 0.05)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = read_bank(bank_path(model))
        assert (found.rows - rows) % 3 == 0
        assert found.rows >= rows
        rows = found.rows
    # The lock died with its owner, and what it had begun to write goes with the next change.
    assert change_bank(bank_path(model), lambda bank: bank).rows == rows
    assert not list(model.parent.glob(".*.partial.bank"))


def test_the_last_two_labels_stay(model):
    contract = read_contract(model)

    def of(label):
        return lambda bank: np.array([each == label for each in bank.row_labels()])

    remove_rows(bank_path(model), contract, of("red"))
    with pytest.raises(FoldcamError, match="needs two labels at least"):
        remove_rows(bank_path(model), contract, of("green"))
    assert {run.name for run in read_bank(bank_path(model)).labels} == {"blue", "green"}
    with pytest.raises(FoldcamError, match="nothing to undo"):
        undo(bank_path(model), contract)


def test_a_bank_of_another_network_or_too_large_is_refused(model):
    bank = read_bank(bank_path(model))
    contract = read_contract(model)
    other = replace(bank, about={**bank.about, "network_sha256": "0" * 64})
    with pytest.raises(FoldcamError, match="the bank of another network"):
        other.check(contract, "it")
    small = replace(contract, bank_input=replace(contract.bank_input, most_rows=3))
    with pytest.raises(FoldcamError, match=r"takes 1 to 3: remove some"):
        bank.check(small, "it")
    write_bank(other, bank_path(model))
    with pytest.raises(FoldcamError, match="the bank of another network"):
        FoldedModel.load(model, "cpu")
    bank_path(model).unlink()
    with pytest.raises(FoldcamError, match=r"model\.bank does not exist"):
        FoldedModel.load(model, "cpu")


class _Steady(Source):
    """A camera that shows one picture until it is stopped."""

    live = True

    def __init__(self, picture, stop):
        super().__init__("camera")
        self._picture, self._stop = picture, stop

    def __iter__(self):
        for index in range(100_000):
            if self._stop.is_set():
                return
            yield Frame(
                self._picture, index, "camera", PurePath("camera"), index / 50, time.monotonic()
            )
            time.sleep(0.02)


class _Answers(Sink):
    """Each answer with the time at which it came."""

    def __init__(self):
        self.seen = []

    def write(self, item):
        self.seen.append((time.monotonic(), item.result.answer))


def test_a_run_answers_by_the_new_bank_from_the_next_frames_on_and_goes_on(model, anna):
    stop, answers = threading.Event(), _Answers()
    picture = read_image(anna / "0.png")

    failures = []

    def until(answer):
        begin = time.monotonic()
        while not answers.seen or answers.seen[-1][1] != answer:
            assert time.monotonic() - begin < 60, f"no {answer} in a minute"
            time.sleep(0.01)

    def act():
        try:
            for arguments, answer in (
                ((), before),
                (("bank", "add", model, "--label", "anna", "--images", anna), "anna"),
                (("bank", "remove", model, "--label", "anna"), before),
            ):
                if arguments:
                    done = _runtime(*arguments)
                    assert done.returncode == 0, done.stderr
                until(answer)
        except AssertionError as error:
            failures.append(error)
        finally:
            stop.set()

    # Opened as `runtime run` opens it; the source that never ends takes the place of its own.
    config = RunConfig(
        sources=(SourceConfig(file=str(anna)),),
        model=ModelOptions(path=str(model), provider="cpu", threads=1),
    )
    with opened(config) as everything:
        before = everything.model(picture).answer
        actor = threading.Thread(target=act)
        actor.start()
        run(_Steady(picture, stop), everything.model, [answers], stop=stop)
        actor.join()
    assert not failures
    order = [answer for _, answer in answers.seen]
    assert sum(a != b for a, b in pairwise(order)) == 2
