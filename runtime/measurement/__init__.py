"""Measuring models: how long they take, and how far two of them agree."""
