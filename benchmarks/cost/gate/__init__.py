"""The latency gate: is a folded graph still as cheap beside the plain one as it was?"""
