"""INT8 for a folded model, gated on what it costs."""
