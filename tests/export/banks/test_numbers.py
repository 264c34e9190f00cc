"""Numbers that cannot be used are refused, and the pictures are named."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from foldcam.export.banks.bank import Bank, alike_notes
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.fitted_network import fit_head
from foldcam.export.banks.grad_weights import pull_back
from foldcam.export.banks.numbers import check_finite, unit_rows
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Sample, load_dataset
from foldcam.export.exporting.scale_out.sources import Shard
from foldcam.export.exporting.scale_out.work import Task, Worker
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.system.errors import FoldcamError


class NoEpsilon(torch.nn.Module):
    """Divides by the deviation of the picture, which a picture of one colour does not have."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 6, 3, stride=2)
        self.head = torch.nn.Linear(6, 4)

    def forward(self, image):
        middle = image - image.mean(dim=(2, 3), keepdim=True)
        even = middle / middle.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return self.head(torch.relu(self.conv(even)).mean((2, 3)))


@pytest.fixture
def blank(photos):
    path = photos / "red" / "blank.png"
    cv2.imwrite(str(path), np.zeros((20, 24, 3), np.uint8))
    return path


@pytest.fixture
def plain(preprocessing):
    """Black is exactly zero."""
    return replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.fixture
def network(networks):
    return TorchNetwork(NoEpsilon(), networks.SIZE)


def test_building_a_bank_names_the_picture(photos, blank, network, plain):
    samples = load_dataset(photos).samples
    with pytest.raises(FoldcamError, match=r"not finite .* for 1 of 13 images: .*blank\.png; "):
        build_bank(network, plain, samples, parse_objective("all-triplets"))
    good = [sample for sample in samples if sample.path != blank]
    assert build_bank(network, plain, good, parse_objective("all-triplets")).bank.rows == 12


def test_fitting_a_head_names_the_picture(photos, blank, network, plain):
    with pytest.raises(FoldcamError, match=r"not finite .*blank\.png"):
        fit_head(network, plain, load_dataset(photos).samples)


def test_a_worker_names_the_picture(photos, blank, network, plain, tmp_path):
    samples = load_dataset(photos).samples
    worker = Worker("", None, None, "", "", "", plain, 4, tmp_path)
    worker._network = network
    with pytest.raises(FoldcamError, match=r"not finite .*blank\.png"):
        worker.embed(Task(Shard(samples), tmp_path / "shard"))


def test_a_network_that_is_broken_for_every_picture_is_called_broken(tmp_path):
    samples = [Sample(tmp_path / f"{n}.png", "a") for n in range(3)]
    with pytest.raises(FoldcamError, match=r"every one of the 3 images, first .*0\.png: it or its"):
        check_finite(np.full((3, 2), np.nan), samples)


def test_one_bad_picture_alone_does_not_make_the_network_broken(tmp_path):
    with pytest.raises(FoldcamError, match=r"for 1 of 1 images: .*a\.png; take it out"):
        check_finite(np.full((1, 2), np.nan), [Sample(tmp_path / "a.png", "a")])
    check_finite(np.zeros((0, 2)), [])


def test_many_pictures_are_counted_and_the_first_named(tmp_path):
    samples = [Sample(tmp_path / f"{n}.png", "a") for n in range(9)]
    rows = np.ones((9, 2))
    rows[:7, 1] = np.inf
    with pytest.raises(FoldcamError, match=r"for 7 of 9 images: .*0\.png.*4\.png and 2 more"):
        check_finite(rows, samples)


def test_an_embedding_of_zeros_is_named(tmp_path):
    samples = [Sample(tmp_path / f"{n}.png", "a") for n in range(2)]
    with pytest.raises(FoldcamError, match=r"zeros for 1 of 2 images: .*1\.png"):
        unit_rows(np.asarray([[1, 2], [0, 0]], np.float32), samples)


def _bank(embeddings):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = len(unit)
    return Bank(
        unit.astype(np.float32), np.ones((1, 3), np.float32), np.zeros(rows, np.int32),
        (LabelRun("a", rows),), "all-triplets",
    )  # fmt: skip


def test_a_bank_whose_rows_are_all_alike_is_said_loudly():
    generator = np.random.default_rng(0)
    spread = generator.normal(size=(2000, 8))
    assert alike_notes(_bank(spread)) == []
    same = np.ones(8) + 1e-4 * spread
    (note,) = alike_notes(_bank(same))
    assert note.startswith("WARNING: all embeddings of the bank are nearly the same")
    assert "--mean" in note
    # One row that is another one is enough to be told apart.
    same[1] = -1
    assert alike_notes(_bank(same[:100])) == []
    assert alike_notes(replace(_bank(same[:1]))) == []


def test_a_gradient_that_is_not_finite_names_the_picture(cut, photos, preprocessing):
    class Overflows:
        def pull_back(self, activations, directions):
            weights = torch.ones(len(directions), 3)
            weights[1, 2] = torch.inf
            return weights

    samples = load_dataset(photos).samples[:3]
    directions = np.ones((3, 4), np.float32)
    with pytest.raises(FoldcamError, match=r"not finite for some images \(.*1\.png\): its"):
        pull_back(Overflows(), None, directions, samples)
