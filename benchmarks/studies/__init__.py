"""What the project's figures rest on; run from a checkout, and not installed."""
