"""Legal files that few exporters write: they fold as ONNX Runtime runs them, or one sentence."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.models.spec import load_model
from foldcam.runtime.system.errors import FoldcamError

POOLED = ["GlobalAveragePool map -> p", "Flatten p -> f"]


def turned(made):
    """The same nodes, the last first, branches and bodies included."""
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _turn(attribute.g)
    _turn(made.graph)
    return made


def _turn(graph):
    nodes = list(graph.node)[::-1]
    del graph.node[:]
    graph.node.extend(nodes)


def _graph(nodes, output):
    made = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    return helper.make_graph(nodes, "inside", [], made)


def _with_branch(files):
    """An If on a constant, in whose branches the nodes stand in order."""
    made = files.plain([*POOLED, "Gemm f,w1 -> g", "If yes -> y"], yes=np.array(True))
    then = [helper.make_node("Neg", ["g"], ["a"]), helper.make_node("Mul", ["a", "g"], ["b"])]
    made.graph.node[-1].attribute.extend(
        [
            helper.make_attribute("then_branch", _graph(then, "b")),
            helper.make_attribute(
                "else_branch", _graph([helper.make_node("Neg", ["g"], ["c"])], "c")
            ),
        ]
    )
    return made


def _function(files):
    made = files.plain([*POOLED, "Gemm f,w1 -> g", "Twist g -> y"])
    made.graph.node[-1].domain = "own"
    nodes = [helper.make_node("Relu", ["a"], ["c"]), helper.make_node("Neg", ["c"], ["b"])]
    opset = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function("own", "Twist", ["a"], ["b"], nodes, opset))
    made.opset_import.append(helper.make_opsetid("own", 1))
    return made


def _converted_to_half(files):
    """As ONNX Runtime's float16 converter with keep_io_types: the casts are the last nodes."""
    made = files.plain()
    for tensor in made.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    made.graph.node[0].input[0], made.graph.node[-1].output[0] = "x_half", "y_half"
    made.graph.node.extend(
        [
            helper.make_node("Cast", ["x"], ["x_half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["y_half"], ["y"], to=TensorProto.FLOAT),
        ]
    )
    return made


def _sizes(files, *sizes):
    made = files.plain(given=sizes)
    for dim, size in zip(made.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
        if isinstance(size, int):
            dim.dim_value = size
    return made


def _sequence(files, *lines, **constants):
    known = {
        "first": np.array(0, np.int64),
        "second": np.array(1, np.int64),
        "last": np.array(-1, np.int64),
        "by_two": np.array(2, np.int64),
        "parts": np.array([1, 3], np.int64),
        "one": files.weights(4, 1, 3),
        "two": files.weights(5, 2, 3),
        "three": files.weights(6, 3, 3),
        "eight": files.weights(7, 8, 3),
        "axis": np.array([1], np.int64),
    }
    return files.plain([*POOLED, *lines], **known, **constants)


def _sizes_computed(files, opset, last=False):
    """As torch wrote `x.view(x.size(0), -1)`: Shape, Gather, Unsqueeze, Concat, Reshape."""
    lines = [
        "Conv x,w0 -> c0 strides=2,2",
        "Relu c0 -> map",
        "GlobalAveragePool map -> p",
        "Shape p -> s",
        "Gather s,zero -> n",
        "Unsqueeze n,axis -> n1",
        "Concat n1,rest -> sizes axis=0",
        "Reshape p,sizes -> f",
        "Gemm f,w1,b1 -> y",
    ]
    constants = {
        "w0": files.weights(0, 4, 3, 3, 3),
        "w1": files.weights(1, 4, 3),
        "b1": files.weights(2, 3),
        "zero": np.array(0, np.int64),
        "rest": np.array([-1], np.int64),
        "axis": np.array([0], np.int64),
    }
    made = files.graph(lines, constants, opset, ("N", 3, *files.SIZE), {"y": ("N", 3)})
    if opset < 13:
        made.graph.node[5].CopyFrom(helper.make_node("Unsqueeze", ["n"], ["n1"], axes=[0]))
    if last:
        del made.graph.node[-1]
        made.graph.node[-1].output[0] = "y"
        made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    return made


def _every_constant(files):
    made = files.plain(
        [
            *POOLED,
            "Gemm f,w1 -> g",
            "Mul g,number -> g1",
            "Mul g1,numbers -> g2",
            "Cast integer -> i to=1",
            "Add g2,i -> g3",
            "Cast integers -> is to=1",
            "Add g3,is -> g4",
            "Add g4,sparse -> g5",
            "Add g5,listed -> g6",
            "Add g6,tensor -> y",
        ]
    )
    values = numpy_helper.from_array(np.array([1, 2], np.float32), "sparse")
    places = numpy_helper.from_array(np.array([0, 2], np.int64))
    sparse = helper.make_sparse_tensor(values, places, [3])
    listed = onnx.SparseTensorProto()
    listed.CopyFrom(sparse)
    listed.values.name = "listed"
    made.graph.sparse_initializer.append(listed)
    for name, attribute in {
        "number": {"value_float": 2.0},
        "numbers": {"value_floats": [1.0, 2.0, 3.0]},
        "integer": {"value_int": 3},
        "integers": {"value_ints": [1, 2, 3]},
        "text": {"value_string": "a"},
        "texts": {"value_strings": ["a", "b"]},
        "sparse": {"sparse_value": sparse},
        "tensor": {"value": numpy_helper.from_array(np.ones(3, np.float32))},
    }.items():
        made.graph.node.insert(0, helper.make_node("Constant", [], [name], **attribute))
    return made


def _unnamed(files, name=""):
    made = files.plain()
    for node in made.graph.node:
        node.name = name
    return made


def _further_outputs(files):
    made = files.plain()
    for value in (
        made.graph.output[0],
        helper.make_tensor_value_info("x", 1, ["N", 3, *files.SIZE]),
        helper.make_tensor_value_info("w1", 1, [4, 3]),
    ):
        made.graph.output.append(value)
    return made


def _without(files, field):
    made = files.plain()
    if field == "shape":
        made.graph.input[0].type.tensor_type.ClearField("shape")
    else:
        made.graph.output[0].ClearField("type")
    return made


FOLD = {
    **{
        f"reversed: {style}": lambda files, style=style: turned(files.STYLES[style]())
        for style in ("face", "transformer", "squeeze and excitation", "plain")
    },
    "casts at the end": _converted_to_half,
    "a branch": _with_branch,
    "a function": _function,
    "-1": lambda files: _sizes(files, -1, 3, -1, -1),
    "a batch of -1": lambda files: _sizes(files, -1, 3, *files.SIZE),
    "0": lambda files: _sizes(files, 0, 3, 0, 0),
    "empty": lambda files: _sizes(files, None, None, None, None),
    "'-1'": lambda files: _sizes(files, "-1", 3, "-1", "-1"),
    "'None'": lambda files: _sizes(files, "None", 3, "None", "None"),
    "'?'": lambda files: _sizes(files, "?", 3, "?", "?"),
    "no shape": lambda files: _without(files, "shape"),
    "no type": lambda files: _without(files, "type"),
    "a wrong output shape": lambda files: files.plain(outputs={"y": (7, 9)}),
    "split in parts": lambda files: _sequence(
        files, "SplitToSequence f,parts -> q axis=1", "SequenceAt q,last -> e", "Gemm e,three -> y"
    ),
    "split by size": lambda files: _sequence(
        files, "SplitToSequence f,by_two -> q axis=1", "SequenceAt q,second -> e", "Gemm e,two -> y"
    ),
    "split one by one": lambda files: _sequence(
        files, "SplitToSequence f -> q axis=1", "SequenceAt q,last -> e", "Gemm e,one -> y"
    ),
    "unbind": lambda files: _sequence(
        files,
        "SplitToSequence f -> q axis=1 keepdims=0",
        "SequenceAt q,second -> e",
        "Unsqueeze e,axis -> u",
        "Gemm u,one -> y",
    ),
    "a list": lambda files: _sequence(
        files,
        "Neg f -> n",
        "SequenceEmpty -> q0",
        "SequenceInsert q0,f -> q1",
        "SequenceInsert q1,n,first -> q2",
        "ConcatFromSequence q2 -> e axis=1",
        "Gemm e,eight -> y",
    ),
    "a stack": lambda files: _sequence(
        files,
        "Neg f -> n",
        "SequenceConstruct f,n -> q",
        "ConcatFromSequence q -> e axis=1 new_axis=1",
        "Flatten e -> flat",
        "Gemm flat,eight -> y",
    ),
    **{
        f"sizes computed, opset {opset}, {last}": lambda files, opset=opset, last=last: (
            _sizes_computed(files, opset, last)
        )
        for opset in (9, 11, 13, 16)
        for last in (False, True)
    },
    "every kind of constant": _every_constant,
    "no names": _unnamed,
    "one name": lambda files: _unnamed(files, "n"),
    "outputs twice, an input, a weight": _further_outputs,
    "a squeeze of all ones": lambda files: files.plain(
        [*POOLED, "Gemm f,w1 -> g", "Squeeze g -> y"], {"y": (3,)}
    ),
    "three dimensions": lambda files: files.plain(
        [*POOLED, "Gemm f,w1 -> g", "Unsqueeze g,axis -> y"],
        {"y": ("N", 1, 3)},
        axis=np.array([1], np.int64),
    ),
    "four dimensions": lambda files: files.plain(
        ["GlobalAveragePool map -> y"], {"y": ("N", 4, 1, 1)}
    ),
    "inputs left out": lambda files: files.plain(
        [
            "Resize map,,scales -> r mode=nearest",
            "GlobalAveragePool r -> p",
            "Flatten p -> f",
            "Clip f,,high -> c",
            "Gemm c,w1 -> y",
        ],
        scales=np.array([1, 1, 2, 2], np.float32),
        high=np.array(0.4, np.float32),
    ),
    "doubles inside": lambda files: files.plain(
        [*POOLED, "Cast f -> d to=11", "MatMul d,w2 -> g", "Cast g -> y to=1"],
        w2=files.weights(3, 4, 3).astype(np.float64),
    ),
}


def _one_by_one(path, images):
    """The file's own embeddings, image by image, in ONNX Runtime."""
    model = onnx.load(str(path))
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        if dim.dim_value < 1:
            dim.Clear()
    for node in model.graph.node:
        node.name = ""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.concatenate(
        [session.run(["y"], {"x": images[at : at + 1]})[0].reshape(1, -1) for at in range(3)]
    )


@pytest.mark.parametrize("name", FOLD)
def test_it_folds_and_gives_the_embedding_of_the_original(
    name, onnx_files, tmp_path, random_images, answers_of
):
    path = onnx_files.save(FOLD[name](onnx_files), tmp_path)
    network = load_model(str(path)).network(size=onnx_files.SIZE)
    images = random_images(3, onnx_files.SIZE)
    expected = _one_by_one(path, images.numpy())
    model = network.to_onnx(18)
    onnx.checker.check_model(model, full_check=True)
    (_, folded) = answers_of(model.SerializeToString(), images.numpy())
    for found in (folded, network.forward(images).embedding):
        cosine = torch.cosine_similarity(torch.as_tensor(expected), torch.as_tensor(found))
        assert float(cosine.min()) > 0.99999
    if name != "casts at the end":
        np.testing.assert_allclose(folded, expected, rtol=1e-4, atol=1e-5)


def _typed(files, kind):
    made = files.plain()
    made.graph.input[0].type.tensor_type.elem_type = kind
    return made


def _optional_input(files):
    made = files.plain()
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 3, *files.SIZE])
    made.graph.input[0].type.CopyFrom(helper.make_optional_type_proto(tensor))
    made.graph.node.insert(0, helper.make_node("OptionalGetElement", ["x"], ["got"]))
    made.graph.node[1].input[0] = "got"
    made.opset_import[0].version = 18
    return made


def _sequence_output(files):
    made = files.plain([*POOLED, "Gemm f,w1 -> g", "SplitToSequence g -> y axis=1"])
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    made.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(tensor))
    return made


def _condition_of_the_image(files):
    made = files.plain(
        [
            *POOLED,
            "Gemm f,w1 -> g",
            "ReduceMax g -> m keepdims=0",
            "Greater m,half -> c",
            "If c -> y",
        ],
        half=np.array(0.5, np.float32),
    )
    made.graph.node[-1].attribute.extend(
        helper.make_attribute(name, _graph([helper.make_node(operator, ["g"], ["a"])], "a"))
        for name, operator in (("then_branch", "Neg"), ("else_branch", "Identity"))
    )
    return made


def _loop(files):
    made = files.plain(
        [*POOLED, "Gemm f,w1 -> g", "Loop times,go,g -> y"],
        times=np.array(3, np.int64),
        go=np.array(True),
    )
    body = helper.make_graph(
        [helper.make_node("Neg", ["v"], ["w"]), helper.make_node("Identity", ["on"], ["still"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    made.graph.node[-1].attribute.append(helper.make_attribute("body", body))
    return made


def _edited(files, change):
    made = files.plain()
    change(made)
    return made


NO_IMAGE = r"that is no batch of images.*networks that look at images"
SAYS = {
    "sound": (lambda files: _sizes(files, "N", 16000), rf"the shape \? x 16000: {NO_IMAGE}"),
    "a spectrum": (lambda files: _sizes(files, "N", 80, "T"), NO_IMAGE),
    "one row": (lambda files: _sizes(files, 16000), rf"shape 16000: {NO_IMAGE}"),
    "a number": (lambda files: _sizes(files), rf"shape of a single number: {NO_IMAGE}"),
    "a film": (lambda files: _sizes(files, "N", 3, 8, 12, 16), NO_IMAGE),
    "no batch": (lambda files: _sizes(files, 3, 12, 16), "one image without a batch"),
    "no batch, colour last": (lambda files: _sizes(files, 12, 16, 3), "one image without a batch"),
    "grey": (lambda files: _sizes(files, "N", 1, 12, 16), "take three and average them"),
    "four channels": (lambda files: _sizes(files, "N", 4, 12, 16), r"no batch .*three channels"),
    "double": (lambda files: _typed(files, TensorProto.DOUBLE), "is double, and float32 or"),
    "bfloat16": (lambda files: _typed(files, TensorProto.BFLOAT16), "is bfloat16, and float32 or"),
    "integers": (lambda files: _typed(files, TensorProto.INT32), "is int32, and float32 pixels"),
    "text": (lambda files: _typed(files, TensorProto.STRING), "is string, and float32 pixels"),
    "an optional input": (_optional_input, "'x' is a sequence or an optional value"),
    "no input": (
        lambda files: _edited(files, lambda made: made.graph.input.pop()),
        "takes no input",
    ),
    "an optional value": (
        lambda files: files.plain(
            [*POOLED, "Optional f -> o", "OptionalGetElement o -> g", "Gemm g,w1 -> y"]
        ),
        r"uses Optional \(node 'n_o'\), a sequence or an optional value",
    ),
    "an element of the image's choice": (
        lambda files: _sequence(
            files,
            "ReduceMax f -> m keepdims=0",
            "Cast m -> at to=7",
            "SplitToSequence f,by_two -> q axis=1",
            "SequenceAt q,at -> e",
            "Gemm e,two -> y",
        ),
        r"uses SplitToSequence \(node 'n_q'\)",
    ),
    "a sequence as output": (
        _sequence_output,
        r"output is 'y' \[a sequence\].*--output: 'g' \[1 x 3\]",
    ),
    "doubles as output": (
        lambda files: files.plain([*POOLED, "Gemm f,w1 -> g", "Cast g -> y to=11"]),
        r"in float32 or float16: choose one with --output: 'g' \[1 x 3\]",
    ),
    "a map as output": (
        lambda files: files.plain(["Neg map -> y"], {"y": ("N", 4, 5, 7)}),
        "no value of it was found that could be folded",
    ),
    "the image as output": (
        lambda files: files.graph(["Identity x -> y"], {}, 17, ("N", 3, 12, 16), {"y": ("N",)}),
        "no value of it was found that could be folded",
    ),
    "a condition of the image": (_condition_of_the_image, r"ReduceMax \(node 'n_m'\) mixes"),
    "a loop": (_loop, r"Loop \(node 'n_y'\).*--head fitted"),
    "a circle": (
        lambda files: _edited(files, lambda made: made.graph.node[0].input.__setitem__(0, "y")),
        r"runs in a circle: Conv \(node 'n_c0'\)",
    ),
    "a value made twice": (
        lambda files: _edited(
            files, lambda made: made.graph.node.append(helper.make_node("Neg", ["map"], ["f"]))
        ),
        r"makes its value 'f' twice \(nodes 'n_f' and 'f'\)",
    ),
    "no opset": (
        lambda files: _edited(files, lambda made: made.opset_import.pop()),
        r"does not say in which version of ONNX's operators \(opset\)",
    ),
    "an opset of the future": (
        lambda files: _edited(
            files, lambda made: setattr(made.opset_import[0], "version", 99)
        ),
        "is in ONNX opset 99, and .* is the newest",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAYS)
def test_what_cannot_be_folded_is_said_in_one_sentence(name, onnx_files, tmp_path):
    make, sentence = SAYS[name]
    path = tmp_path / "embedding.onnx"
    path.write_bytes(make(onnx_files).SerializeToString())
    with pytest.raises(FoldcamError, match=sentence) as caught:
        load_model(str(path)).network(size=onnx_files.SIZE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_file_in_order_is_left_as_it_is(onnx_files, tmp_path):
    made = onnx_files.plain()
    path = onnx_files.save(made, tmp_path)
    assert load_model(str(path)).source.model == made


def test_nodes_keep_the_order_of_the_file_where_they_can(onnx_files, tmp_path):
    made = onnx_files.plain()
    late = made.graph.node.pop(1)
    made.graph.node.append(late)
    path = tmp_path / "embedding.onnx"
    path.write_bytes(made.SerializeToString())
    order = [node.name for node in load_model(str(path)).source.model.graph.node]
    assert order == ["n_c0", "n_map", "n_pooled", "n_f", "n_y"]
