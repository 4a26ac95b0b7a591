"""The contract of a transport, under the name by which transports import it."""

from stbass._channels.transport import NOTHING, ChannelStats, Happened, Link, LinkSpec, Side, Transport

__all__ = ["NOTHING", "ChannelStats", "Happened", "Link", "LinkSpec", "Side", "Transport"]
