"""The workstation: network + training images -> folded ONNX."""
