"""ONNX graphs, whatever is in them: read, searched, written to, other opset or precision."""
