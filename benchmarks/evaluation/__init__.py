"""Are maps and answers right? Measured on labelled images, with intervals."""
