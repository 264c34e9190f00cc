"""Events of a run, such as an unknown object, a label, heat in a box or a high estimate."""
