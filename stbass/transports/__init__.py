"""What channels run on: the contract of a transport, and the transport in memory."""

from stbass._channels.choice import Choice
from stbass._channels.memory import MEMORY, MemoryLink, MemoryTransport
from stbass._channels.transport import NOTHING, Arm, ChannelStats, Happened, Link, LinkSpec, Side, Transport

__all__ = [
    "MEMORY",
    "NOTHING",
    "Arm",
    "ChannelStats",
    "Choice",
    "Happened",
    "Link",
    "LinkSpec",
    "MemoryLink",
    "MemoryTransport",
    "Side",
    "Transport",
]
