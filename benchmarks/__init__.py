"""Latency, overhead, localization, house price, peers; tables and plots."""
