"""Engines that build and are known to answer wrongly: found by structure, with their source."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from foldcam.export.onnx_graphs.precision import to_float16
from foldcam.export.onnx_graphs.values import PREPARED
from foldcam.export.verification.check.checker import check_model
from foldcam.export.verification.check.targets import find_targets

FLOAT = TensorProto.FLOAT
VERSIONS = {
    "jetpack-6.1": "wrong-attention-10.3",
    "jetpack-6.2": "wrong-attention-10.3",
    "desktop-10.4": "wrong-attention-10.4",
    "desktop-10.7": "wrong-attention-10.7",
}
FIXED = ("jetpack-6.0", "desktop-10.5", "desktop-10.9", "jetpack-7.2", "desktop-11", "rtx")
SOURCES = {
    "wrong-attention-10.3": "NVIDIA/TensorRT/issues/4558",
    "wrong-attention-10.4": "NVIDIA/TensorRT/issues/4742",
    "wrong-attention-10.7": "NVIDIA/TensorRT/issues/4333",
    "attention-fp16": "NVIDIA/TensorRT/issues/4373",
    "attention-to-fp16": "NVIDIA/TensorRT/issues/4373",
    "if-from-tile": "lightly-ai/lightly-train/pull/783",
}


class _Pooled(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(pixel_values=image).pooler_output


def _vision_transformer(kind, attention):
    library = pytest.importorskip("transformers", reason="needs transformers: foldcam[dev]")
    torch.manual_seed(0)
    config, network = {
        "DINOv3": ("DINOv3ViTConfig", "DINOv3ViTModel"),
        "SigLIP": ("SiglipVisionConfig", "SiglipVisionModel"),
    }[kind]
    made = getattr(library, config)(
        image_size=32,
        patch_size=8,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        attn_implementation=attention,
    )
    return _Pooled(getattr(library, network)(made).eval())


def _exported(module, path, dynamo):
    image = torch.zeros(1, 3, 32, 32)
    settings = {"input_names": ["image"], "output_names": ["pooled"], "opset_version": 18}
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, (image,), str(path), dynamo=dynamo, verbose=False, **settings,
                **({"external_data": False} if dynamo else {}),
            )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return path


def _findings(path, target):
    (report,) = check_model(path, find_targets([target])).targets
    return {finding.rule: finding for finding in report.findings}


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    """DINOv3 and SigLIP by architecture, from both exporters, with both ways of attention."""
    folder, made = tmp_path_factory.mktemp("vit"), {}

    def get(kind, attention, dynamo):
        key = kind, attention, dynamo
        if key not in made:
            path = folder / f"{kind}-{attention}-{dynamo}.onnx"
            made[key] = _exported(_vision_transformer(kind, attention), path, dynamo)
        return made[key]

    return get


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["DINOv3", "SigLIP"])
def test_a_vision_transformer_for_jetpack_6_2_has_its_risk_and_source_named(
    kind, attention, dynamo, transformers
):
    found = _findings(transformers(kind, attention, dynamo), "jetpack-6.2")
    risk = found["wrong-attention-10.3"]
    assert risk.severity == "warning"
    assert SOURCES["wrong-attention-10.3"] in risk.source
    assert (
        "TensorRT 10.3 is known to build vision transformers that answer wrongly" in risk.sentence
    )
    # SigLIP pools by an attention of its own.
    assert f"here: {'2 attentions' if kind == 'SigLIP' else '1 attention'})" in risk.sentence
    # And how to test it.
    assert all(word in risk.remedy for word in ("runtime build", "runtime doctor", "self-test"))
    assert SOURCES["attention-to-fp16"] in found["attention-to-fp16"].source
    # Only the older exporter writes an If for the tile of rotary embeddings.
    assert ("if-from-tile" in found) == (kind == "DINOv3" and not dynamo)


def test_each_version_has_its_own_warning_and_others_none(transformers):
    path = transformers("DINOv3", "sdpa", True)
    for target, rule in VERSIONS.items():
        found = _findings(path, target)
        assert [name for name in found if name.startswith("wrong-")] == [rule], target
        assert SOURCES[rule] in found[rule].source
    for target in FIXED:
        assert not [name for name in _findings(path, target) if name.startswith("wrong-")], target


def test_a_tile_behind_an_if_is_named_with_the_if(transformers):
    finding = _findings(transformers("DINOv3", "eager", False), "jetpack-7.2")["if-from-tile"]
    assert (finding.severity, finding.operator) == ("warning", "If")
    assert SOURCES["if-from-tile"] in finding.source


def test_float16_scores_are_warned_of_and_foldcams_are_float32(transformers, tmp_path):
    model = onnx.load(transformers("SigLIP", "eager", False))
    onnx.save(to_float16(model), tmp_path / "foldcam.onnx")
    found = _findings(tmp_path / "foldcam.onnx", "rtx")
    assert not {"attention-fp16", "attention-to-fp16"} & set(found)
    # As other converters leave it.
    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT}
    for tensor in model.graph.initializer:
        if tensor.name in halves:
            value = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.t.data_type == FLOAT:
                value = onnx.numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(value))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "half.onnx")
    finding = _findings(tmp_path / "half.onnx", "rtx")["attention-fp16"]
    assert finding.severity == "warning"
    assert "2 attentions computed in float16" in finding.sentence
    assert SOURCES["attention-fp16"] in finding.source


X = ("x", FLOAT, [1, 4, 6])
Y = ("y", FLOAT, [1, 4, 6])
EYE = np.eye(6, dtype=np.float32)
NORM = {"gain": np.ones(6, np.float32), "w": EYE}


def _normal(e, written_out=False):
    """The normalisation of `x`, `n`: as one operator, or written out."""
    if not written_out:
        return [e.node("LayerNormalization", "x gain", "n")]
    return [
        e.node("ReduceMean", "x axis", "mean"),
        e.node("Sub", "x mean", "centred"),
        e.node("Pow", "centred two", "squares"),
        e.node("ReduceMean", "squares axis", "variance"),
        e.node("Sqrt", "variance", "deviation"),
        e.node("Div", "centred deviation", "n"),
    ]


def _block(e, *, written_out=False, keys="n", values="n", guard=False, normal=True, opset=18):
    """`softmax(n keys^T / 2) values`, of which keys or values may be constants."""
    nodes = _normal(e, written_out) if normal else [e.node("Relu", "x", "n")]
    nodes += [
        e.node("Transpose", keys, "k", perm=[0, 2, 1] if keys == "n" else [1, 0]),
        e.node("MatMul", "n k", "products"),
        e.node("Mul", "products half", "scores"),
        e.node("Softmax", "scores", "weights", axis=-1),
    ]
    weights = "weights"
    if guard:
        nodes += [e.node("IsNaN", "weights", "nan"), e.node("Where", "nan none weights", "safe")]
        weights = "safe"
    nodes.append(e.node("MatMul", f"{weights} {values}"))
    constants = {
        **NORM,
        "axis": np.array([-1]),
        "two": np.array(2, np.float32),
        "half": np.array(0.5, np.float32),
        "none": np.array(0, np.float32),
    }
    return e.model(nodes, constants, [X], [("y", FLOAT, [1, 4, "d"])], opset=opset)


@pytest.mark.parametrize(
    "how", [{}, {"written_out": True}, {"guard": True}], ids=["operator", "written out", "guard"]
)
def test_attention_is_found_however_it_is_written(how, examples, checked):
    found = {f.rule: f for f in checked(_block(examples, **how), "jetpack-6.2").findings}
    assert found["wrong-attention-10.3"].operator == "Softmax"


def test_onnx_attention_is_found(examples, checked):
    nodes = [*_normal(examples), examples.node("Attention", "n n n", q_num_heads=2, kv_num_heads=2)]
    made = examples.model(nodes, NORM, [X], [Y], opset=23)
    assert "wrong-attention-10.3" in {f.rule for f in checked(made, "jetpack-6.2").findings}


@pytest.mark.parametrize(
    "how",
    [{"keys": "w"}, {"values": "w"}, {"normal": False}],
    ids=["keys are weights", "values are weights", "no normalisation"],
)
def test_what_is_no_attention_of_a_transformer_is_not_warned_of(how, examples, checked):
    """A softmax before a layer, a mixture of learned rows, a non-local block with batch norm."""
    rules = {finding.rule for finding in checked(_block(examples, **how), "jetpack-6.2").findings}
    assert not {"wrong-attention-10.3", "attention-to-fp16", "attention-fp16"} & rules


def test_a_variance_written_out_in_float16_is_warned_of(examples, checked):
    model = _block(examples, written_out=True)
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            value = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    (finding,) = [f for f in checked(model, "rtx").findings if f.rule == "attention-fp16"]
    assert "1 attention and 1 normalisation computed in float16" in finding.sentence


@pytest.mark.parametrize("target", ["jetpack-6.2", "rtx", "desktop-10.4"])
def test_a_folded_convolutional_network_is_not_warned_of(target, folded_file, checked):
    """Its bank's search and transfer are products and a softmax of foldcam's own."""
    rules = {finding.rule for finding in checked(onnx.load(folded_file), target).findings}
    assert not rules & set(SOURCES)


def test_attention_that_foldcam_added_is_not_counted(examples, checked):
    model = _block(examples)
    next(node for node in model.graph.node if node.op_type == "Softmax").name = f"{PREPARED}row"
    assert "wrong-attention-10.3" not in {f.rule for f in checked(model, "jetpack-6.2").findings}


def test_an_if_that_no_tile_reads_has_the_general_warning_alone(examples, checked):
    rules = {finding.rule for finding in checked(examples.branch(False), "rtx").findings}
    assert "control-flow" in rules
    assert "if-from-tile" not in rules


def test_every_rule_of_known_wrong_answers_says_how_to_test_it():
    from foldcam.export.verification.check.checker import RULES

    rules = {rule.id: rule for rule in RULES if rule.id in SOURCES}
    assert set(rules) == set(SOURCES)
    for name, rule in rules.items():
        assert SOURCES[name] in rule.source
        assert all(one.startswith("https://") for one in rule.source.split(", "))
        assert name == "if-from-tile" or "runtime build" in rule.remedy
