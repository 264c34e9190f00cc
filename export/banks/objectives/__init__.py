"""Objectives: (embeddings, labels or values) -> directions, without the network."""
