"""The contract of a backend, and what it reads of a context, under the name by which backends import them."""

from stbass._engine.backend import ExecutionBackend
from stbass._process.context import frame_of, given_to, note_sent, own_channels, sent_by
from stbass._process.frame import Frame

__all__ = ["ExecutionBackend", "Frame", "frame_of", "given_to", "note_sent", "own_channels", "sent_by"]
