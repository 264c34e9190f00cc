"""`foldcam demo`, `evaluate` and `bench`: flags turned into calls."""
