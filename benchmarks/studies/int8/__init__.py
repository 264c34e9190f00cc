"""What INT8 costs and gains: naive and gated quantization of three networks on two data sets."""
