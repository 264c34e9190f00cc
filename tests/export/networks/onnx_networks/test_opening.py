"""Names for --output are proposed only where they were tried; a batch's true cause is named."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.models.spec import load_model
from foldcam.runtime.system.errors import FoldcamError

POOLED = ["GlobalAveragePool map -> p", "Flatten p -> f", "Gemm f,w1 -> g"]


def _image_and_words(files):
    """As CLIP: words on one side, an image on the other, and how well they agree."""
    made = files.plain(
        [
            *POOLED,
            "Gather table,words -> each axis=0",
            "ReduceMean each -> sentence axes=1,-1 keepdims=0",
            "Transpose sentence -> turned perm=1,0",
            "MatMul g,turned -> agree",
            "Identity sentence -> text_embeds",
            "Identity g -> image_embeds",
        ],
        {"agree": ("N", "M"), "text_embeds": ("M", 3), "image_embeds": ("N", 3)},
        table=files.weights(5, 10, 3),
    )
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axes":
                del attribute.ints[1:]
    words = helper.make_tensor_value_info("words", TensorProto.INT64, ["M", 4])
    made.graph.input.insert(0, words)
    return made


def _image_and_camera(files):
    """As a re-identification network that adds a row for each camera."""
    made = files.plain(
        [*POOLED, "Gather table,camera -> row axis=0", "Add g,row -> y"],
        table=files.weights(5, 6, 3),
    )
    made.graph.input.append(helper.make_tensor_value_info("camera", TensorProto.INT64, ["N"]))
    return made


def _nine(files):
    """Nine outputs: seven look like embeddings, and one of these sees no map."""
    sizes = {
        "y": ("N", 3),
        "map": ("N", 4, 5, 7),
        "negative": ("N", 3),
        "positive": ("N", 3),
        "flat": ("N", 3),
        "size": (2,),
        "shares": ("N", 3),
        "root": ("N", 4),
        "p": ("N", 4, 1, 1),
    }
    made = files.plain(
        [
            *POOLED,
            "Identity g -> y",
            "Neg g -> negative",
            "Relu g -> positive",
            "Flatten x -> pixels",
            "Gemm pixels,w2 -> flat",
            "Shape g -> size",
            "Softmax g -> shares axis=1",
            "Sqrt f -> root",
        ],
        sizes,
        w2=files.weights(7, 3 * files.HEIGHT * files.WIDTH, 3),
    )
    for value in made.graph.output:
        if value.name == "size":
            value.type.tensor_type.elem_type = TensorProto.INT64
    return made


def _text_and_mask(files):
    made = files.graph(["MatMul x,other -> y"], {}, 17, ("N", 8), {"y": ("N", 4)})
    made.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [8, 4]))
    return made


def _said(path, **options):
    with pytest.raises(FoldcamError) as caught:
        load_model(path, **options).network()
    return str(caught.value)


@pytest.mark.parametrize(
    ("make", "works"),
    [
        (_image_and_words, ["image_embeds"]),
        (_image_and_camera, ["g"]),
        (_nine, ["negative", "p", "positive", "root", "shares", "y"]),
    ],
)
def test_exactly_the_outputs_that_fold_are_proposed(make, works, onnx_files, tmp_path):
    path = str(onnx_files.save(make(onnx_files), tmp_path))
    message = _said(path)
    proposed = re.findall(r"'([^']+)' \[", message.partition("--output")[2])
    outputs = [value.name for value in onnx.load(path).graph.output]
    if any(name in outputs for name in works):
        assert sorted(name for name in proposed if name in outputs) == works
    else:
        assert proposed == works
    for name in proposed:
        network = load_model(path, output=name).network()
        assert network.to_onnx(18).graph.input[0].name == "image"


def test_a_network_without_any_image_is_refused_as_that(onnx_files, tmp_path):
    path = str(onnx_files.save(_text_and_mask(onnx_files), tmp_path))
    message = _said(path)
    assert "takes 2 inputs ('x', 'other'), none of which is a batch of images" in message
    assert "--output" not in message


def test_where_no_output_folds_the_message_says_why_the_first_does_not(onnx_files, tmp_path):
    lines = ["Flatten x -> pixels", "Gemm pixels,w2 -> y", "Neg y -> z"]
    constants = {"w2": onnx_files.weights(7, 3 * onnx_files.HEIGHT * onnx_files.WIDTH, 3)}
    made = onnx_files.graph(
        lines, constants, 17, ("N", 3, *onnx_files.SIZE), {"y": ("N", 3), "z": ("N", 3)}
    )
    message = _said(str(onnx_files.save(made, tmp_path)))
    assert "several outputs that could be the embedding, and no value of it was found" in message
    assert "(tried: 'y', 'z': The network has no spatial feature map" in message


def _dropout(files):
    made = files.plain([*POOLED, "Dropout g,ratio,train -> y"])
    constants = {"ratio": np.array(0.3, np.float32), "train_": np.array(True)}
    made.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    made.graph.node.insert(0, helper.make_node("Identity", ["train_"], ["train"]))
    return made


def _centred(files, batch="N"):
    made = files.plain(
        [*POOLED, "ReduceMean g -> middle axes=0,-1 keepdims=1", "Sub g,middle -> y"],
        {"y": (batch, 3)},
        (batch, 3, *files.SIZE),
    )
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axes":
                del attribute.ints[1:]
    return made


def _first_row(files):
    return files.plain(
        [*POOLED, "Slice g,zero,one,zero -> y"],
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
    )


CAUSES = {
    "dropout": (_dropout, r"^Dropout \(node 'n_y'\) is in training mode"),
    "noise": (
        lambda files: files.plain([*POOLED, "RandomNormalLike g -> noise", "Add g,noise -> y"]),
        r"^RandomNormalLike \(node 'n_noise'\) draws random numbers",
    ),
    "a draw": (
        lambda files: files.plain([*POOLED, "Sigmoid g -> s", "Bernoulli s -> y"]),
        r"^Bernoulli \(node 'n_y'\) draws random numbers",
    ),
    "a mean over the batch": (_centred, r"^ReduceMean \(node 'n_middle'\) mixes or drops images"),
    "one row": (_first_row, r"^Slice \(node 'n_y'\) mixes or drops images"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_an_open_batch_is_not_called_a_batch_of_1(name, onnx_files, tmp_path):
    make, sentence = CAUSES[name]
    message = _said(str(onnx_files.save(make(onnx_files), tmp_path)))
    assert re.search(sentence, message)
    assert "batch of 1" not in message
    assert "first dimension" not in message


@pytest.mark.parametrize("opset", [13, 17])
def test_noise_is_named_in_a_file_of_an_older_opset_too(opset, onnx_files, tmp_path):
    made = onnx_files.plain([*POOLED, "RandomUniformLike g -> noise", "Add g,noise -> y"])
    made.opset_import[0].version = opset
    assert "RandomUniformLike (node 'n_noise')" in _said(str(onnx_files.save(made, tmp_path)))


def test_dropout_that_drops_nothing_is_no_obstacle(onnx_files, tmp_path):
    made = _dropout(onnx_files)
    for tensor in made.graph.initializer:
        if tensor.name == "ratio":
            tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.float32), "ratio"))
    path = str(onnx_files.save(made, tmp_path))
    assert load_model(path).network(exact=False).embedding_size == 3


def test_a_file_for_a_batch_of_1_is_called_that(onnx_files, tmp_path):
    message = _said(str(onnx_files.save(_centred(onnx_files, 1), tmp_path)))
    assert "made for a batch of 1" in message
    assert "ReduceMean (node 'n_middle')" in message


def test_of_tokens_the_class_token_is_proposed_and_is_their_first_row(
    onnx_files, random_images, tmp_path
):
    made = onnx_files.transformer()
    whole = onnx_files.save(made, tmp_path, "whole.onnx")
    del made.graph.output[:], made.graph.node[-1:]
    made.graph.output.append(helper.make_tensor_value_info("l1", TensorProto.FLOAT, [1, 13, 6]))
    tokens = str(onnx_files.save(made, tmp_path, "tokens.onnx"))
    assert _said(tokens).endswith("say --output 'l1[0]' [1 x 6].")
    wanted, found = (
        load_model(path, output=output).network()
        for path, output in ((str(whole), None), (tokens, "l1[0]"))
    )
    images = random_images(2, onnx_files.SIZE)
    torch.testing.assert_close(found.forward(images).embedding, wanted.forward(images).embedding)


def test_numbers_of_tokens_are_not_proposed_as_embeddings(onnx_files, tmp_path):
    made = onnx_files.transformer()
    made.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("patches", TensorProto.FLOAT, [1, 6, 3, 4])
    )
    made.graph.node.append(helper.make_node("Identity", ["y"], ["last"]))
    proposed = re.findall(r"'([^']+)' \[", _said(str(onnx_files.save(made, tmp_path))))
    assert {"l1[0]", "y"} <= set(proposed)
    assert not {"l1m", "l1v", "l1e", "l1r"} & set(proposed)


def test_a_token_of_a_value_that_does_not_exist_is_refused(onnx_files, tmp_path):
    path = str(onnx_files.save(onnx_files.transformer(), tmp_path))
    assert "has no value 'l9[0]' for --output" in _said(path, output="l9[0]")
