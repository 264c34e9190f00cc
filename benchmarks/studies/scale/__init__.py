"""What folding costs as everything grows: rows, sizes, batches, cameras, images."""
