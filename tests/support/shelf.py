"""A transport in memory whose channels can travel, within this Python process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stbass._channels.memory import MemoryLink, MemoryTransport
from stbass._channels.transport import Link, LinkSpec
from stbass.errors import ChannelTopologyError

__all__ = ["Shelf"]


class Shelf(MemoryTransport):
    """A transport whose channels can be found again by number, as those on a server can by key."""

    scheme = "shelf"

    def __init__(self) -> None:
        self.links: list[Link] = []

    def link(self, spec: LinkSpec) -> MemoryLink:
        made = _ShelfLink(spec)
        made.place = len(self.links)
        self.links.append(made)
        return made

    def open(self, spec: LinkSpec, shared: Mapping[str, Any]) -> Any:
        try:
            return self.links[shared["place"]]
        except IndexError:
            raise ChannelTopologyError("no such channel") from None


class _ShelfLink(MemoryLink):
    place: int

    def share(self) -> Any:
        return {"place": self.place}
