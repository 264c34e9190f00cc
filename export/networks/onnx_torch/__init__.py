"""ONNX operators as torch functions, so that directions can be pulled back through a head."""
