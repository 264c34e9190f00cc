"""What is tried on a network and some training images, for the notes of an export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from foldcam.export.banks.embedding_pass import KeptPictures
from foldcam.export.datasets import Sample
from foldcam.export.grafting.frame import frameless
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.cut import Network
from foldcam.export.onnx_graphs.device import Device
from foldcam.export.onnx_graphs.precision import beyond_float16, is_float16
from foldcam.runtime.contract.explanation import FEW_CELLS
from foldcam.runtime.contract.schema import Precision
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

MOST_IMAGES = 32
_BATCH = 8


def tried_images(samples: Sequence[Sample]) -> list[Sample]:
    """At most `MOST_IMAGES` of the samples, at equal steps, so that many labels are among them."""
    count = min(len(samples), MOST_IMAGES)
    return [samples[at * len(samples) // count] for at in range(count)]


def blank_notes(path: Path, samples: Sequence[Sample], kept: KeptPictures) -> list[str]:
    """One sentence where maps of training images are blank, else none."""
    held = [kept.held(sample) for sample in samples]
    pictures = [picture.resized for picture in held if picture is not None]
    blank = 0
    with frameless(path) as file, FoldedModel.load(file, "cpu") as model:
        for first in range(0, len(pictures), _BATCH):
            results = model.run_batch(pictures[first : first + _BATCH])
            blank += sum(result.no_evidence for result in results)
    if not blank:
        return []
    subject = "one" if blank == 1 else str(blank)
    made = model.contract.explanation
    advice = (
        "; --baseline mean compares each position with the average training image"
        if made is not None and made.summands != "none" and made.baseline == "none"
        else ""
    )
    return [
        f"The heatmap is blank for {subject} of {len(pictures)} training images that were tried: "
        f"no position of them speaks for the answer, and a run says `no evidence` then{advice}."
    ]


def wide_values(
    model: onnx.ModelProto,
    precision: Precision,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    kept: KeptPictures,
    device: Device,
) -> tuple[frozenset[str], list[str]]:
    """Values that float16 might not hold, and one sentence where there are any.

    Args:
        model: the network, `image` -> `feature_map`, `embedding`, float32.
        precision: of the folded model; with fp32 there is nothing to measure.
    """
    if precision == "fp32" or is_float16(model):
        return frozenset(), []
    held = [kept.held(sample) for sample in samples]
    pictures = [picture.resized for picture in held if picture is not None]
    if not pictures:
        return frozenset(), [
            "No picture was at hand to measure whether a value leaves float16's range: compare the "
            "file with foldcam verify."
        ]
    wide = beyond_float16(model, preprocessing.normalized(np.stack(pictures)), device)
    if not wide:
        return wide, []
    return wide, [
        f"{len(wide)} values of the network come near float16's greatest number on "
        f"{len(pictures)} training images that were tried, or leave its range: what makes and "
        "reads them stays float32."
    ]


def coarse_notes(loaded: LoadedModel, network: Network, *, exact: bool = True) -> list[str]:
    """One sentence where the feature map has fewer than 5 x 5 cells, else none."""
    _, height, width = network.feature_map_shape
    if height * width >= FEW_CELLS:
        return []
    note = (
        f"The feature map {network.layer} has {height} x {width} cells only, so that heatmaps are "
        "coarse"
    )
    finer = _finer(loaded, network, exact)
    if finer is None:
        return [f"{note}."]
    _, height, width = finer.feature_map_shape
    return [
        f"{note}: --layer {finer.layer} has {height} x {width} (an earlier layer: its "
        "heatmaps are finer, and its features less specific)."
    ]


def _finer(loaded: LoadedModel, network: Network, exact: bool) -> Network | None:
    """The network cut at its finer layer, where directions can be pulled back to that."""
    if network.finer is None:
        return None
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *network.image_size, generator=generator)
    try:
        finer = loaded.cut(network.finer, network.image_size, exact)
        activations = finer.forward(images)
        if exact:
            pulled = finer.pull_back(activations, torch.ones(2, finer.embedding_size))
            if not pulled.any() or not pulled.isfinite().all():
                return None
    except FoldcamError:
        return None
    return finer
