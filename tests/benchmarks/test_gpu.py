"""The program for a GPU, tried on the CPU; and on a GPU where there is one."""

from __future__ import annotations

import json

import onnxruntime
import pytest
import torch

from foldcam.benchmarks.cost.gpu.gradcam import gradcam_runs
from foldcam.benchmarks.cost.gpu.study import GpuOptions, run_gpu, text_table
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.system.errors import FoldcamError

pytest.importorskip("efficientnet_lite_pytorch", reason="needs foldcam[demo]")

SMALL = GpuOptions(
    device="cpu", networks=("EfficientNet-Lite0",), rows=(20,), batches=(2,), rounds=3, size=64
)


def test_every_graph_is_timed_and_compared_with_the_cpu(tmp_path):
    document = run_gpu(tmp_path, SMALL, lambda *_: None)
    assert json.loads((tmp_path / "gpu.json").read_text())["cases"] == document["cases"]
    assert [case["precision"] for case in document["cases"]] == ["fp32", "fp16"]
    first, second = document["cases"]
    graphs = {"plain", "folded_20"}
    assert set(second["milliseconds"]) == graphs
    torch_runs = {"torch_forward", "torch_gradcam_full", "torch_gradcam_map"}
    assert set(first["milliseconds"]) == graphs | torch_runs
    for case in document["cases"]:
        assert all(len(samples) == 3 for samples in case["samples_milliseconds"].values())
        assert set(case["worst_difference_to_cpu"]) == graphs
        worst = case["worst_difference_to_cpu"]["folded_20"]
        assert set(worst) == {"contribution", "embedding", "heatmap", "neighbor", "similarity"}
        assert max(worst.values()) < 1e-5
    assert "folded_20" in text_table(document)


def test_gradcam_leaves_the_network_as_it_was(monkeypatch):
    def no_compiler(*_, **__):
        raise RuntimeError("there is no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)

        def forward(self, image):
            return self.fc(torch.relu(self.conv(image)).mean((2, 3)))

    network = TorchNetwork(Tiny().eval(), (8, 8))
    images = torch.randn(2, 3, 8, 8)
    before = network.forward(images).embedding
    runs, notes = gradcam_runs(network, images, "cpu", peers=True)
    eager = {"torch_forward", "torch_gradcam_full", "torch_gradcam_map"}
    assert set(runs) == eager | {f"{name}_channels_last" for name in eager}
    assert notes == ["torch, compiled: not measured, it failed: there is no compiler"]
    for run in runs.values():
        run()
        run()
    torch.testing.assert_close(network.forward(images).embedding, before)
    assert all(p.grad is None for p in network.trunk_module.parameters())
    assert not any(p.requires_grad for p in network.trunk_module.parameters())


def test_without_cuda_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(FoldcamError, match="ONNX Runtime has no CUDA here"):
        run_gpu(tmp_path, GpuOptions(), lambda *_: None)
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu(tmp_path):
    options = GpuOptions(rows=(300, 2000), rounds=20)
    document = run_gpu(tmp_path, options, lambda *_: None)
    for case in document["cases"]:
        limit = 1e-3 if case["precision"] == "fp32" else 5e-2
        for graph, worst in case["worst_difference_to_cpu"].items():
            if graph != "plain":
                assert worst["similarity"] < limit
                assert worst["heatmap"] < 20 * limit
