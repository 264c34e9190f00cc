"""What folding costs: time, bytes and answers, by the number of bank rows."""
