"""Probe pictures: the same bytes everywhere, and no two alike."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from foldcam.runtime.contract.schema import BankInput
from foldcam.runtime.engine.canary.asking import (
    as_input,
    hashed,
    input_size,
    probe_bank,
    probe_picture,
)


def test_the_hash_is_splitmix64():
    # The first numbers of the generator's published reference for the seed 0.
    assert [hex(value) for value in hashed(0, 3).tolist()] == [
        "0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seed", "height", "width", "digest"),
    [
        (0, 32, 48, "e666bfffa41ba022"),
        (1, 32, 48, "91d2e3de9aeea249"),
        (2, 7, 5, "06740d39cd63723c"),
        (3, 224, 224, "547cc888db2ad947"),
    ],
)
def test_a_seed_gives_the_same_bytes_with_every_version(seed, height, width, digest):
    """Contracts hold answers to these very pictures: who changes them raises PROBES_VERSION."""
    picture = probe_picture(seed, height, width)
    assert (picture.shape, picture.dtype) == ((height, width, 3), np.uint8)
    assert hashlib.sha256(picture.tobytes()).hexdigest()[:16] == digest


def test_no_two_pictures_are_alike():
    pictures = [probe_picture(seed, 32, 32).astype(float) for seed in range(8)]
    for at, one in enumerate(pictures):
        assert one.std() > 10
        for other in pictures[:at]:
            assert abs(one - other).mean() > 20


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_the_input_is_as_the_contract_has_it(kind, contract_with):
    contract = contract_with(input_type=kind, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert input_size(contract) == (8, 8)
    picture = np.full((8, 8, 3), 255, np.uint8)
    image = as_input(contract, picture)
    assert image.dtype == kind
    assert image.shape == ((1, 8, 8, 3) if kind == "uint8" else (1, 3, 8, 8))
    assert image.max() == (255 if kind == "uint8" else 1.0)


def test_a_bank_that_is_an_input_is_replaced_by_one_of_the_canarys_own(contract_with):
    contract = contract_with(labels=(), bank_input=BankInput(100), neighbors=8)
    bank = probe_bank(contract)
    assert bank.rows == 8
    assert len(bank.directions) == 3
    np.testing.assert_allclose(np.linalg.norm(bank.embeddings, axis=1), 1, rtol=1e-6)
    assert (probe_bank(contract).embeddings == bank.embeddings).all()
