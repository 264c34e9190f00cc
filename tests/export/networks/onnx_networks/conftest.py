"""ONNX networks of every style, opened once, and what their files answer."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import onnxruntime
import pytest
import torch

from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
from foldcam.export.onnx_graphs.file import read_onnx


@pytest.fixture(scope="module")
def opened(onnx_files, tmp_path_factory):
    """`opened("face")`: the network of that style, made once."""
    made = {}

    def get(style):
        if style not in made:
            path = onnx_files.save(onnx_files.STYLES[style](), tmp_path_factory.mktemp("onnx"))
            made[style] = OnnxNetwork(read_onnx(path), onnx_files.SIZE), path
        return made[style]

    return get


def _images(count, size, seed=1):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def _run(model, images):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()[:1]
    return session.run(None, {given.name: images})


def _alone(path, style, images):
    """The file's own embeddings, image by image."""
    arrays = images.numpy()
    if style.startswith("channels last"):
        arrays = np.ascontiguousarray(arrays.transpose(0, 2, 3, 1))
    rows = [_run(str(path), arrays[at : at + 1])[0].reshape(1, -1) for at in range(len(arrays))]
    return np.concatenate(rows)


def _export(module, path, size, options):
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (torch.zeros(1, 3, *size),), str(path), **options)
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture
def random_images():
    """`random_images(count, (H, W), seed)`: normal numbers, `float32 [count, 3, H, W]`."""
    return _images


@pytest.fixture
def answers_of():
    """`answers_of(model, array)`: every output of an ONNX file or of its bytes."""
    return _run


@pytest.fixture
def answers_one_by_one():
    """`answers_one_by_one(path, style, images)`: the file's own embeddings, image by image."""
    return _alone


@pytest.fixture
def export_quietly():
    """`export_quietly(module, path, size, options)`: torch's own ONNX export, without its talk."""
    return _export
