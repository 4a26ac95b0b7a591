"""Processes of a group as they are kept in Redis, for another producer that attaches to the group."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from stbass import wire
from stbass._values.endpoint import Placement

__all__ = ["GroupMember", "wired_placement"]


class GroupMember(msgspec.Struct):
    """What ``attach`` must know of a process of a group."""

    id: str
    name: str
    queue: str
    placement: msgspec.Raw
    parent: str | None
    is_optional: bool
    deadline: float | None

    def read_placement(self) -> Placement | None:
        """The placement that it was sent with."""
        found = wire.loads(bytes(self.placement))
        return found if isinstance(found, Placement) else None


def wired_placement(placement: Placement | None) -> bytes:
    """A placement as it travels."""
    # With a configuration equal placements may still differ: 1 == True.
    if placement is None or placement.config is None:
        return _wired_plain_placement(placement)
    return wire.dumps(placement, what="placement")


@lru_cache(maxsize=1024)
def _wired_plain_placement(placement: Placement | None) -> bytes:
    return wire.dumps(placement, what="placement")
