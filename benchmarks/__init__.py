"""Latency, overhead, localization and house prices; studies of a checkout."""
