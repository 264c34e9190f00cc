"""What folding costs: time and bytes, and the gate that keeps them."""
