"""A map averaged over its columns and then over its rows is a pool like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from foldcam.export.models.spec import load_model


def _in_steps(files, axes, keepdims, behind):
    """Reductions over single axes, which the lines of `files` write as lists of two."""
    first, second = axes
    made = files.plain(
        [
            f"ReduceMean map -> once axes={first},{first} keepdims={keepdims}",
            f"ReduceMean once -> pooled axes={second},{second} keepdims={keepdims}",
            *behind,
            "Gemm f,w1 -> y",
        ]
    )
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axes":
                del attribute.ints[1:]
    return made


@pytest.mark.parametrize(
    ("axes", "keepdims", "behind"),
    [
        ((3, 2), 0, ["Identity pooled -> f"]),
        ((2, 2), 0, ["Identity pooled -> f"]),
        ((-1, -1), 0, ["Identity pooled -> f"]),
        ((2, 3), 1, ["Flatten pooled -> f"]),
    ],
)
def test_two_means_in_a_row_are_one_sum_over_positions(
    axes, keepdims, behind, onnx_files, random_images, tmp_path
):
    whole, steps = (
        load_model(str(onnx_files.save(made, tmp_path, name))).network()
        for name, made in (
            ("whole.onnx", onnx_files.plain()),
            ("steps.onnx", _in_steps(onnx_files, axes, keepdims, behind)),
        )
    )
    assert steps.summands == whole.summands == "pool"
    assert steps.feature_map_shape == whole.feature_map_shape
    images = random_images(2, onnx_files.SIZE)
    directions = torch.eye(3)[:2]
    torch.testing.assert_close(
        *(each.pull_back(each.forward(images), directions) for each in (steps, whole))
    )


def test_a_mean_over_channels_and_then_over_rows_is_none(onnx_files, tmp_path):
    made = _in_steps(onnx_files, (1, 1), 0, ["Concat pooled,zeros -> f axis=1"])
    made.graph.initializer.append(numpy_helper.from_array(np.eye(7, 3, dtype=np.float32), "wide"))
    del made.graph.node[-2:]
    made.graph.node.append(helper.make_node("MatMul", ["pooled", "wide"], ["y"], "n_y"))
    network = load_model(str(onnx_files.save(made, tmp_path))).network()
    assert network.summands != "pool"
