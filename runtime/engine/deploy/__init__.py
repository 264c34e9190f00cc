"""`runtime deploy`: a folded model as a part of a serving stack: Triton, DeepStream."""
