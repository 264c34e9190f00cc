"""Photographs: read, written, and made into the network's input in one way everywhere."""
