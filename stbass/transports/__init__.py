"""What channels run on: the contract, and its implementation in memory."""

from stbass.transports.base import NOTHING, ChannelStats, Happened, Link, LinkSpec, Side, Transport
from stbass.transports.choice import Arm, Choice
from stbass.transports.memory import MEMORY, MemoryTransport

__all__ = [
    "MEMORY",
    "NOTHING",
    "Arm",
    "ChannelStats",
    "Choice",
    "Happened",
    "Link",
    "LinkSpec",
    "MemoryTransport",
    "Side",
    "Transport",
]
