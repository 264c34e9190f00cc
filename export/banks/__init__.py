"""Making banks: images -> embeddings -> grad-weights; adding, joining, removing, drawing."""
