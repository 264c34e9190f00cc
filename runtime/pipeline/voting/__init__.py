"""Answers over time: the frames of the last seconds vote over the label of each region.

A label changes only when another leads by a margin, so that it does not flicker between two.
"""
