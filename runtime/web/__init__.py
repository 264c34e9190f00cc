"""The live page: what a run sees, looked at from a browser (extra `live`)."""

from __future__ import annotations

from runtime.web.address import parse_address
from runtime.web.live_page import LivePage

__all__ = ["LivePage", "parse_address"]
