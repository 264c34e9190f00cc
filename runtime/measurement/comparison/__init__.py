"""Comparing two models' answers: the figures, the gate, the self-test, the fastest engine."""
