"""Folded models against the network and the formulas that they come from."""
