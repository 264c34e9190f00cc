"""Folded models: one image in, one result out, and what is drawn of it."""
