"""Every folded variant passes for every target whose opset allows it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest

from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.verification.check.checker import check_model
from foldcam.export.verification.check.targets import TARGETS

pytest.importorskip("tensorrt_rtx", reason="the list of variants lies in a test that needs it")
_SPEC = importlib.util.spec_from_file_location(
    "foldcam_variants", Path(__file__).parents[2] / "test_tensorrt_rtx.py"
)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
OPTIONS = ("transfer", "neighbors", "heatmap_size", "input_type")
# Variants that fold what is not a plain choice of FoldOptions are built by their own tests.
VARIANTS = {
    name: settings
    for name, settings in _MODULE.VARIANTS.items()
    if set(settings) <= {*OPTIONS, "shared", "transform", "color"}
}


def _folded(settings, opset, hand_built, random_bank):
    bank = random_bank(
        9, hand_built.D, hand_built.K, settings.get("shared", False),
        transform=settings.get("transform"),
    )  # fmt: skip
    network = hand_built.embedding_model()
    network.opset_import[0].version = opset
    return fold(
        network,
        bank,
        preprocessing=hand_built.Preprocessing(
            hand_built.WIDTH, hand_built.HEIGHT, color=settings.get("color", "rgb")
        ),
        layer="relu",
        origin=hand_built.ORIGIN,
        versions={"onnx": onnx.__version__},
        options=FoldOptions(**{k: v for k, v in settings.items() if k in OPTIONS}),
    )


def _serious(made, path):
    """Target -> the rules of its errors and warnings."""
    onnx.save(made, path)
    return {
        one.target: {finding.rule for finding in one.findings if finding.severity != "info"}
        for one in check_model(path, TARGETS).targets
    }


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("opset", [17, 18])
def test_a_folded_variant_passes_for_every_target_that_reads_its_opset(
    name, opset, tmp_path, hand_built, random_bank
):
    made = _folded(VARIANTS[name], opset, hand_built, random_bank)
    for target, rules in _serious(made, tmp_path / "model.onnx").items():
        assert rules == ({"opset-too-new"} if opset > target.newest_opset else set())


def test_a_folded_torch_network_passes_from_jetpack_6_1_on(folded_model, tmp_path):
    for target, rules in _serious(folded_model, tmp_path / "model.onnx").items():
        assert rules == ({"opset-too-new"} if target.name == "jetpack-6.0" else set())
