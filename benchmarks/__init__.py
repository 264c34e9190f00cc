"""Latency, overhead, localization, house price, peers; tables and plots."""

from __future__ import annotations

from foldcam.runtime.system.quiet_libraries import keep_libraries_quiet

# Modules of this package import the libraries themselves, before anything else of ours.
keep_libraries_quiet()
