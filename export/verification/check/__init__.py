"""`foldcam check`: will a TensorRT that is not at hand read this ONNX file? Rules as data."""
