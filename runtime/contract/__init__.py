"""Contract: what a folded model promises, read from its file without onnx, and checked."""
