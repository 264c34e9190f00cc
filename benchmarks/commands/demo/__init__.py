"""The demo: the main job, end to end, on photographs that a package carries."""
