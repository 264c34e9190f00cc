"""Exports, start to end: the steps of `foldcam export`, and files of banks and galleries."""
