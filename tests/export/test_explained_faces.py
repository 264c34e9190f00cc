"""A face network with a global depthwise head, exported and run: its maps read as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.export import export_model, load_dataset, load_model
from foldcam.runtime.images.files import list_images, read_image
from foldcam.runtime.model.folded_model import FoldedModel


@pytest.fixture(scope="module")
def results(data_root, tmp_path_factory):
    """Of 40 photographs, one of each person."""
    network, faces = data_root / "networks" / "MobileFaceNet.onnx", data_root / "faces"
    if not (network.is_file() and faces.is_dir()):
        pytest.skip("needs networks and faces: set FOLDCAM_DATA to the folder with them")
    path = tmp_path_factory.mktemp("faces") / "faces.onnx"
    export_model(load_model(str(network)), load_dataset(faces, "train"), path)
    images = [read_image(each) for each in list_images(faces / "test", recursive=True)[::5]]
    with FoldedModel.load(path, "cpu", 1) as model:
        assert model.contract.explanation.summands == "depthwise"
        yield model.run_batch(images)


def test_no_map_is_blank_and_the_heatmap_is_the_positive_part(results):
    assert len(results) == 40
    assert not any(result.no_evidence for result in results)
    for result in results:
        positive = np.maximum(result.contribution, 0)
        np.testing.assert_allclose(result.heatmap, positive / positive.max(), atol=1e-5)


def test_evidence_and_shares_add_up(results):
    for result in results:
        width, height = result.frame_wh
        both = result.evidence_for - result.evidence_against
        assert both == pytest.approx(float(result.contribution.sum()), abs=1e-5)
        assert 0 < result.evidence_for < 2
        halves = [result.share((x, 0, width / 2, height)) for x in (0, width / 2)]
        assert sum(half.evidence_for for half in halves) == pytest.approx(1.0)
        against = [half.evidence_against for half in halves]
        if result.evidence_against:
            assert sum(against) == pytest.approx(1.0)
        else:
            assert against == [None, None]
