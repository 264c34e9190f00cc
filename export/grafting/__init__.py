"""Fold and unfold: bank, transfer and heatmap grafted onto the network's graph. No torch."""
