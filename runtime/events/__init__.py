"""What a run shall notice: an unknown object, a label, heat in a place, an estimate."""
