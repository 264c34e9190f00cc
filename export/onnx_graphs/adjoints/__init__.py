"""Vector-Jacobian products as forward nodes of an ONNX graph: one rule per operator, no torch."""
