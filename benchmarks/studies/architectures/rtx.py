"""TensorRT RTX's parser and compiler, which need no GPU."""

from __future__ import annotations

from functools import cache
from typing import Any


def build_error(model: bytes) -> str | None:
    """Parse a folded model and build an engine of it for batches of 1 to 4.

    Args:
        model: the ONNX file's bytes.

    Returns:
        None where it builds, else the first reason.
    """
    import tensorrt_rtx as trt

    builder = trt.Builder(_logger())
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, _logger())
    if not parser.parse(model):
        return str(parser.get_error(0).desc())
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    image = network.get_input(0)
    rest = list(image.shape)[1:]
    profile.set_shape(image.name, [1, *rest], [2, *rest], [4, *rest])
    config.add_optimization_profile(profile)
    # It returns None and does not raise.
    built = builder.build_serialized_network(network, config)
    return "the build failed" if built is None else None


@cache
def _logger() -> Any:
    """One per process: TensorRT keeps the first it is given."""
    import tensorrt_rtx as trt

    return trt.Logger(trt.Logger.ERROR)
