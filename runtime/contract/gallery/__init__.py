"""Galleries: the picture and the map of each row of a bank, in a file beside the model."""
