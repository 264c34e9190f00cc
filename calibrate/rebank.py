"""The bank's rows embedded by the quantized network, so that like is compared with like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from calibrate.graph import with_outputs
from calibrate.selection import read_pictures
from calibrate.session import Floats, Images, Runner
from export.datasets import load_dataset
from export.grafting.fold import fold
from export.grafting.refold import FoldWishes, fold_options
from export.grafting.unfold import network_of
from export.storage.in_graph import bank_of
from runtime.contract import EMBEDDING, Contract
from runtime.errors import FoldcamError

# Cosine above which an image made a row, by whether the rows are stored in full.
_SAME_ROW = {True: 0.99999, False: 0.999}
_CHUNK = 1024


def rebank(
    model: onnx.ModelProto, quantized: onnx.ModelProto, contract: Contract, data: Path
) -> onnx.ModelProto:
    """Fold the bank again, with the quantized network's embeddings.

    Which image made which row is found by the float network's embeddings: the bank does not
    hold its images' names.

    Args:
        model: the folded float32 model.
        quantized: made from it.
        contract: of both.
        data: with the bank's images among its split.

    Raises:
        FoldcamError: an image of the bank is missing from the data.
    """
    bank = bank_of(model, contract)
    split = contract.origin.split
    dataset = load_dataset(
        data,
        "test" if split == "test" else "all" if split == "all" else "train",
        continuous=contract.outcome is not None,
    )
    pictures = read_pictures(dataset.samples, contract.preprocessing)
    floats = _embedded(model, contract, pictures.resized)
    storage = contract.bank.storage
    full = storage is None or storage.embeddings == "float32"
    nearest, similarity = _nearest(bank.embeddings, floats)
    missing = int((similarity < _SAME_ROW[full]).sum())
    if missing:
        raise FoldcamError(
            f"--rebank: {missing} of the bank's {bank.rows} rows come from images that are not in "
            f"{data}: give the data set that the model was exported with "
            f"({contract.origin.data}, split {split})."
        )
    levels = _embedded(quantized, contract, pictures.resized)[nearest]
    changed = replace(bank, embeddings=np.ascontiguousarray(levels))
    bare = onnx.ModelProto()
    bare.CopyFrom(quantized)
    return fold(
        network_of(bare, contract),
        changed,
        preprocessing=contract.preprocessing,
        layer=contract.layer,
        origin=contract.origin,
        versions=contract.versions,
        options=fold_options(FoldWishes(), contract),
    )


def _embedded(model: onnx.ModelProto, contract: Contract, images: Images) -> Floats:
    found = Runner(with_outputs(model, [EMBEDDING]), contract).all(images)[EMBEDDING]
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(norms, 1e-12), np.float32)


def _nearest(rows: Floats, images: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    places, values = [], []
    for start in range(0, len(rows), _CHUNK):
        cosines = rows[start : start + _CHUNK] @ images.T
        places.append(cosines.argmax(axis=1))
        values.append(cosines.max(axis=1))
    return np.concatenate(places), np.concatenate(values)
