"""EfficientNet-Lite0 on photographs of birds: naive quantization fails, calibration repairs it."""

from __future__ import annotations

import csv

import onnx
import pytest

from foldcam.export.datasets import load_dataset

pytest.importorskip("efficientnet_lite_pytorch", reason="needs foldcam[demo]")

# Of 28 images two are 7 points: recall is not what so few can judge, heatmaps are.
LIMITED = (
    *("--method", "mse", "--count", "16", "--choice-images", "21", "--gate-images", "28"),
    *("--recall-lost", "8"),
)


@pytest.fixture(scope="module")
def birds(cub_root, tmp_path_factory):
    """A CSV of the first photographs of each species: 6 to train with, 4 to judge by."""
    path = tmp_path_factory.mktemp("birds") / "birds.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "split"))
        for split, each in (("train", 6), ("test", 4)):
            counts: dict[str, int] = {}
            for sample in load_dataset(cub_root, split).samples:
                counts[sample.label] = counts.get(sample.label, 0) + 1
                if counts[sample.label] <= each:
                    writer.writerow((sample.path, sample.label, split))
    return path


@pytest.fixture(scope="module")
def demo(birds, tmp_path_factory):
    """`foldcam export demo` over them."""
    from foldcam.export.banks.objectives.directions import parse_objective
    from foldcam.export.datasets import load_dataset
    from foldcam.export.exporting.exporter import export_model
    from foldcam.export.models.spec import load_model

    out = tmp_path_factory.mktemp("demo") / "model.onnx"
    export_model(
        load_model("demo"), load_dataset(birds, "train"), out, parse_objective("all-triplets")
    )
    return out


def test_the_demo_network_calibrates_passes_and_is_accepted(foldcam, demo, birds, tmp_path):
    out = tmp_path / "model.int8.onnx"
    status, text, err = foldcam("calibrate", demo, "--images", birds, "--out", out, *LIMITED)
    assert status == 0, text[text.rindex("FAILED") :] if "FAILED" in text else err
    assert out.stat().st_size < 0.45 * demo.stat().st_size
    assert foldcam("check", out, "--target", "jetpack-6.2")[0] == 0
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: foldcam[rtx]")
    from foldcam.benchmarks.studies.architectures.study import build_error

    assert build_error(out.read_bytes()) is None


def test_naive_quantization_of_the_same_network_fails_the_gate(demo, birds):
    from foldcam.benchmarks.studies.int8.subjects import quantize_naively
    from foldcam.calibrate.quality import Gate
    from foldcam.calibrate.selection import read_pictures, select
    from foldcam.calibrate.source import read_source
    from foldcam.runtime.measurement.comparison.verdict import GateLimits, failures_of

    model, contract = read_source(demo)
    parts = select(birds, 16, 21, 28, 0)
    pictures, judges = (
        read_pictures(part, contract.preprocessing) for part in (parts.calibration, parts.gate)
    )
    naive = quantize_naively(model, contract, pictures)
    onnx.checker.check_model(naive)
    figures, _, _ = Gate(model, contract, judges).figures(naive, kernels=True)
    assert figures.finite
    failures = failures_of(figures, GateLimits())
    assert any("heatmap correlation" in text for text in failures), figures
