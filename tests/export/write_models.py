"""Models and banks of many kinds, in a process of their own: `write_models.py PHOTOS FOLDER`."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.objectives.kernel import parse_kernel
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.models.spec import LoadedModel, load_model
from foldcam.runtime.images.preprocess import Preprocessing


def write_models(photos: Path, folder: Path) -> None:
    """Write a model and a bank of each kind; of the demo's network where it is installed."""
    path = Path(__file__).with_name("networks.py")
    spec = importlib.util.spec_from_file_location("networks", path)
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)

    dataset = load_dataset(photos)
    priced = replace(
        dataset,
        samples=tuple(replace(s, value=float(2 + n)) for n, s in enumerate(dataset.samples)),
    )
    triplets, kernel = parse_objective("all-triplets"), parse_kernel("kernel:tau=0.1", "log")
    wide = FoldOptions(transfer=2, neighbors=3, heatmap_size="input")
    half = FoldOptions(precision="fp16", input_type="uint8")
    recipe = Preprocessing(networks.SIZE[1], networks.SIZE[0])
    tiny = LoadedModel(networks.make_tiny(), recipe, "tinynet:make", "")
    variants = {
        "labels": (tiny, dataset, triplets, FoldOptions(), 18),
        "sampled": (tiny, dataset, parse_objective("sampled:3"), wide, 18),
        "fp16 in opset 17": (tiny, dataset, triplets, half, 17),
        "prices": (tiny, priced, kernel, FoldOptions(input_type="uint8"), 18),
    }
    if importlib.util.find_spec("efficientnet_lite_pytorch"):
        variants["demo"] = (load_model("demo"), dataset, triplets, half, 17)
    for name, (loaded, data, goal, options, opset) in variants.items():
        bank_out = folder / f"{name}.safetensors"
        out = folder / f"{name}.onnx"
        export_model(loaded, data, out, goal, options=options, opset=opset, bank_out=bank_out)


if __name__ == "__main__":
    write_models(Path(sys.argv[1]), Path(sys.argv[2]))
