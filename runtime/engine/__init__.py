"""Engines: built from a folded model, described by a manifest, checked before they are loaded."""

ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
