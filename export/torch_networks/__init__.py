"""A torch module as an embedding network: traced, searched, cut, written as ONNX."""
