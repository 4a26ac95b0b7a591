"""What channels keep in Redis, and how the keys are named. The scripts that change it: :mod:`.scripts`.

The data model. ``<base>`` is ``stbass:chan:{<id>}``, after the fleet's prefix if it has one: the braces are the hash
tag, so that all keys of one channel are in one slot of a cluster. ``<id>`` is a UUID; in a transport with a namespace
it is the namespace and the channel's name, quoted. A *party* is one open end of a channel, ``<client>.<number>``: the
client is one event loop of one Python process (the number of the database and a UUID), the number is the end's within
it. Times are milliseconds of the server's clock: nobody else's matters.

Every key has a time to live (the transport's ``ttl``), which every party renews together with its lease; all are
deleted when the last party leaves, and when a closed channel is empty. If parties of a closed and empty channel have
died, and their leases have not ended, the keys are left with a second more than those to live.

Keys (type; written by; read by):

``<base>``
    hash; both ends, by scripts; both ends. The fields:

    ``name type cap``
        what the first party said the channel is.
    ``born``
        which party that was: an end that has joined this channel is none of another one that has its name, after the
        data of this one was deleted.
    ``closed``
        there once it is: ``1``, or the same as in ``why``.
    ``why``
        if nobody is left who could be at the other end: who has ended and how, after a ``!`` if one of them has failed,
        else a ``-``. Without a capacity the channel is closed then; with one, as soon as there is a reader.
    ``loose``
        there if the channel was shared before it was made here: then a closed one is remembered for a minute.
    ``epoch``
        when the channel was made, plus one for each change of the reader. The lists carry it in their names: a blocking
        move that a former reader has left behind in the server waits on a list that nobody fills any more.
    ``left``
        how many elements the lists have at least. If there are fewer, a list was deleted: then the rest is deleted too,
        and both ends fail.
    ``offered acked sent got``
        number of the last value that was offered; of the last one acknowledged; how many were sent (acknowledged, or
        accepted by a channel with a capacity); how many received.
    ``done``
        with a capacity: number of the last value that its reader has dealt with. What was received after it (``acked``)
        makes room for the writer, but goes to the next reader if this one dies.
    ``w w.owner w.who w.since``, ``r …``
        the party that holds the writer's (reader's) place, the process it was bound to (empty: whoever uses the end),
        where that runs, and since when. The lease is the party's.
    ``w.runs r.runs``
        which runs of processes of a fleet the party is a part of, if it is, with the number of the attempt of each:
        ``<run>:<attempt> …``. It stays when the place is given back. A later attempt gets the place from an earlier one
        at once; an earlier one, which the fleet has given up but which may still run, never gets it back.
    ``had.w.<party> had.r.<party>``
        of each party that lost the place to another: number of the last value that it had sent (which was received, or
        with a capacity offered); without a capacity, number of the last that it had received, and how many were. It may
        not have heard of that. Until it has the place again, or leaves.
    ``ask.w ask.r``
        the party that wants the place and waits to hear whether the holder lives.
    ``wait``
        there while the reader waits in a plain receive.
    ``wd now gv``
        what became of the writer's latest withdrawals, of its latest offer that could not wait, and of its latest
        answer to a proposal: a command whose answer was lost with a connection is sent again, and must find its result.

``<base>:parties``
    hash, party -> when its lease ends; each party; all.
``<base>:arms``
    hash, ``<party>/<number>`` -> ``side|open|passive|rank``: guards of choices; the party; both ends.
``<base>:props``
    hash, id -> party: proposals of readers to choices at the writer's end; the reader; the writer.
``<base>:offers:<epoch>``
    list of values that are offered, or accepted and not yet taken; the writer; the reader, by a blocking move.
    What an element is, see :mod:`.entries`. Its kind is ``s`` (the writer waits for the acknowledgement), ``n`` (it
    waits, but not long: the reader should say no if it does not take it), ``b`` (accepted by a channel with a capacity)
    or ``g`` (given in answer to a proposal).
``<base>:taken:<epoch>``
    list: an empty first element, which keeps the list and its time to live when there is nothing else in it, and
    values that the reader has moved here and not yet acknowledged; the reader; the writer, to withdraw.

Channels of publish/subscribe:

``stbass:chan:to:<client>``, after the prefix too
    msgpack lists, from the scripts to the client: number of the party, what happened, details. They only wake: what
    they tell can be asked for again, and is after every reconnection.
"""

from __future__ import annotations

from urllib.parse import quote

__all__ = ["base_key", "inbox"]


def base_key(prefix: str, channel_id: str, namespace: str | None = None) -> str:
    """The key that the names of all keys of a channel begin with."""
    if namespace is None:
        return f"{prefix}stbass:chan:{{{channel_id}}}"
    names = [quote(name, safe="", errors="surrogatepass") for name in (namespace, channel_id)]
    return f"{prefix}stbass:chan:{{{':'.join(names)}}}"


def inbox(prefix: str, client: str) -> str:
    """The publish/subscribe channel on which a client is told. The scripts know the prefix by the channel's key."""
    return f"{prefix}stbass:chan:to:{client}"
