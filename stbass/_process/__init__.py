"""The context that a process runs in, plain functions as processes, and threads for what blocks."""
