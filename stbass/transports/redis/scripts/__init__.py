"""The scripts that change a channel in Redis; the data model is in :mod:`.keys`.

Each has one key, ``<base>``, and as first argument the party that calls; those that are not called for each value have
there, too, which channel it has joined (the field ``born``): for another one the answer is ``gone``. Each may be called
again with the same arguments, and then gives the same answer: after a lost connection nobody knows whether a command
was executed. What the server refuses for now (a full memory, say) it refuses at the first thing that a script would
change: then nothing was done. The first element of an answer is a word:

``ok``      done; what follows depends on the script
``gone``    there is no such channel (any more), or no such value
``closed``  the channel is closed, and nothing was done
``taken``   another party holds the side by now, and nothing was done; which channel it is, follows
``free``    nobody holds the side, and nothing was done; which channel it is, follows
``none``    there is nobody to do it with
``held``    another party holds the place; what follows says who
``undone``  another channel's place, of the same program, was lost, and nothing was done
``old``     a later attempt of the same process holds the place, or held it last
``type``    the channel carries another type, which follows
"""

from __future__ import annotations

from stbass.transports.redis.scripts.choices import ASK, ATTACH, DENY, DETACH, GIVE, UNASK
from stbass.transports.redis.scripts.ends import AFFIRM, CLOSE, FREE, HOLD, JOIN, LEAVE, LOSE, PURGE, SYNC
from stbass.transports.redis.scripts.script import Script
from stbass.transports.redis.scripts.values import ACK, DROP, NOW, OFFER, RECEIVE, REFUSE, TURN, WAIT, WITHDRAW

__all__ = [
    "ACK",
    "AFFIRM",
    "ALL",
    "ASK",
    "ATTACH",
    "CLOSE",
    "DENY",
    "DETACH",
    "DROP",
    "FREE",
    "GIVE",
    "HOLD",
    "JOIN",
    "LEAVE",
    "LOSE",
    "NOW",
    "OFFER",
    "PURGE",
    "RECEIVE",
    "REFUSE",
    "SYNC",
    "TURN",
    "UNASK",
    "WAIT",
    "WITHDRAW",
    "Script",
]

ALL = (
    JOIN,
    HOLD,
    FREE,
    AFFIRM,
    OFFER,
    RECEIVE,
    WITHDRAW,
    NOW,
    REFUSE,
    WAIT,
    ACK,
    CLOSE,
    LEAVE,
    ATTACH,
    DETACH,
    ASK,
    UNASK,
    GIVE,
    DENY,
    SYNC,
    DROP,
    PURGE,
    LOSE,
    TURN,
)
"""Every script, in the order in which a connection loads them."""
