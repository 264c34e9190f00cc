"""An ONNX file as an embedding network: freed of its batch, cut, differentiated."""
