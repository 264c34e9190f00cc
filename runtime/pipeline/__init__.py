"""From sources through the model to sinks: every stage in a thread of its own.

    reader (one per source) -> Inbox -> preparer -> inference -> delivery
        -> sink thread (one per sink)

All queues are bounded. What is overtaken, lost or late is counted by its cause.
"""
