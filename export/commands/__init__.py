"""The command lines: flags turned into calls of public functions."""
