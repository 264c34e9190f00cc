"""Banks that live beside a model whose graph takes them as inputs: read, changed, written."""
