"""`runtime bench`: how long a folded model takes on this machine, and what the machine was."""
