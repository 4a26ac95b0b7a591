"""The contract of a backend, under the name by which backends import it."""

from stbass._engine.backend import ExecutionBackend

__all__ = ["ExecutionBackend"]
