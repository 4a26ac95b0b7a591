"""What a process is given, under the name by which programs import it."""

from stbass._process.context import ContextSink, ProcessContext

__all__ = ["ContextSink", "ProcessContext"]
