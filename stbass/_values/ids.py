"""Identifiers: UUIDs of version 4, made quickly."""

from __future__ import annotations

import itertools
import os
import random

__all__ = ["new_id"]

# A process per agent makes many ids, and uuid.uuid4 costs more than starting a task. So 74 bits are random once per
# Python process, and the other 48 count up from a random start. The counter is spread by a multiplication that never
# maps two counts to one (the factor is odd), so that ids made one after the other differ at a glance.
_SPREAD = 0x9E3779B97F4B
_MASK = (1 << 48) - 1


def _seed() -> None:
    global _tail, _count
    source = random.Random(os.urandom(32))
    variant = source.choice("89ab")
    _tail = f"-4{source.getrandbits(12):03x}-{variant}{source.getrandbits(12):03x}-{source.getrandbits(48):012x}"
    _count = itertools.count(source.getrandbits(48))


_tail: str
_count: itertools.count[int]
_seed()
# A forked child must not make its parent's ids.
os.register_at_fork(after_in_child=_seed)


def new_id() -> str:
    """A fresh UUID (version 4) in its usual text form; unique here, and among all Python processes everywhere."""
    digits = f"{next(_count) * _SPREAD & _MASK:012x}"
    return f"{digits[:8]}-{digits[8:]}{_tail}"
