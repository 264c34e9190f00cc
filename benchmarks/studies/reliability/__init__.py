"""Whether a run lasts: cut sources, long runs, several cameras, a real RTSP server.

Every check is a module with `check(full, folder, progress)`, which returns a JSON document with
`passed`, its settings and its figures, and `rows(document)`, which are its lines in the docs.
"""
