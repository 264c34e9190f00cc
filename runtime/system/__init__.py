"""The process and its machine: files, logs, signals, memory, systemd, user code."""
