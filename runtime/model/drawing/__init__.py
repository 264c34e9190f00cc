"""Heat, regions and text drawn onto a frame."""
