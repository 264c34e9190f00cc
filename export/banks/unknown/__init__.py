"""Which images are unknown: scores of a bank, the threshold, and the rule in a folded model."""
