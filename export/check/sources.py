"""Where the facts of the rules are published."""

from __future__ import annotations

_DOCS = "https://docs.nvidia.com/deeplearning/tensorrt/latest"
OPERATORS = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"
CHANGELOG = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/Changelog.md"
OPSETS = f"{_DOCS}/reference/onnx-opset-guide.html"
QUANTIZATION = f"{_DOCS}/inference-library/quantized-types-explicit-quantization.html"
ELEMENTWISE = f"{_DOCS}/_static/c-api/classnvinfer1_1_1_i_element_wise_layer.html"
UINT8_QUANTIZE = "https://github.com/onnx/onnx-tensorrt/pull/886"
POOL_WINDOW = "https://github.com/NVIDIA/TensorRT/issues/2094"
DYNAMIC_SHAPES = f"{_DOCS}/inference-library/work-dynamic-shapes.html"
DLA = f"{_DOCS}/inference-library/dla-layer-restrictions.html"
ONNX_OPERATORS = "https://github.com/onnx/onnx/blob/main/docs/Changelog.md"
ONNX_IR = "https://github.com/onnx/onnx/blob/main/docs/IR.md"
ONNX_EXTERNAL = "https://github.com/onnx/onnx/blob/main/docs/ExternalData.md"
ONNX_PLUGINS = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/TRT_custom_ops.md"
FOLDCAM = "https://arxiv.org/abs/2001.06538"
