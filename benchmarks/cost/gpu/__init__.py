"""What a GPU says: parity, the cost of folding, and Grad-CAM by back-propagation beside it."""
