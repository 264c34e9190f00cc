"""Enrolling a label on the device: pictures or frames of a camera -> rows of the bank."""
