"""Comparing two models' answers: the gate, the self-test, the fastest engine."""
