"""The transport in memory, under the name by which programs import it."""

from stbass._channels.memory import MEMORY, MemoryLink, MemoryTransport

__all__ = ["MEMORY", "MemoryLink", "MemoryTransport"]
