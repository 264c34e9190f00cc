"""How grad-weights should be taken from the bank: measured on the training half alone."""
