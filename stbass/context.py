"""What a process is given, under the name by which programs import it."""

from stbass._process.context import ProcessContext, running_context
from stbass._process.frame import ContextSink

__all__ = ["ContextSink", "ProcessContext", "running_context"]
