"""The live page: what a run sees, looked at from a browser (extra `live`)."""

from __future__ import annotations

from foldcam.runtime.web.live_page import LivePage

__all__ = ["LivePage"]
