"""What MODEL names: demo, module:factory, .pt2, .safetensors, .onnx."""
