"""Fold and unfold: bank, transfer and heatmap on the network's graph, and how it holds a bank."""
