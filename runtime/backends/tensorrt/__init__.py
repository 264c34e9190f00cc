"""TensorRT: engines that preflight has let through, run by name-based I/O alone."""
