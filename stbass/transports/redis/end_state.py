"""Everything that is known of one end of a channel in Redis, in one record."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from stbass._channels.transport import Arm, ChannelStats, LinkSpec
from stbass.errors import BackendUnavailableError, ChannelTopologyError, StateLostError, StbassError
from stbass.transports.redis.client import Client, Journal, Options
from stbass.transports.redis.connection import Answer, Pipe
from stbass.transports.redis.entries import Codec
from stbass.transports.redis.keys import base_key
from stbass.transports.redis.scripts import ALL, Script

__all__ = [
    "ASKING",
    "FREE",
    "HELD",
    "LEAVING",
    "UNDONE_FOR_NOW",
    "EndState",
    "MovedValue",
    "PendingSend",
    "Place",
    "is_undone",
]

Place: TypeAlias = Literal["w", "r"]
"""One of the two sides of a channel, as the server knows it."""

FREE, ASKING, HELD, LEAVING = range(4)
"""What an end has to do with a place: nothing, it waits for it, it has it, it is about to give it back."""


UNDONE_FOR_NOW = [b"undone", b"w"]
"""What a script answers that would have been done if the program had not lost another channel's writer's place."""


def is_undone(reply: Any) -> bool:
    """Whether a script did nothing because the program has lost a place of another channel."""
    return isinstance(reply, list) and reply[0] == b"undone"


@dataclass(slots=True, eq=False)
class PendingSend:
    """A value whose send waits."""

    waiter: Future[Any]
    payload: bytes
    number: int = 0
    happened: bool = False


class MovedValue:
    """A value that the server has moved to this reader, and that nobody here has received."""

    __slots__ = ("kind", "number", "raw", "value")

    def __init__(self, raw: bytes, number: int, kind: bytes, value: Any) -> None:
        self.raw = raw
        self.number = number
        self.kind = kind
        self.value = value


@dataclass(slots=True, eq=False)
class EndState:
    """One end of a channel: one party of it, in the words of :mod:`.keys`.

    A channel without a capacity uses what is common and what is said to be of a rendezvous; one with a capacity what is
    common and what is said to be buffered.
    """

    # Which channel, and what it was opened with.
    spec: LinkSpec
    options: Options
    transport: str
    """What it was made by, for messages."""
    id: str
    namespace: str | None
    creates: bool
    """Whether the channel comes into being if it is not there; else that means that it is closed."""
    loose: bool
    """Whether it was shared before it was there: then whoever comes when this end is over must find it closed."""
    lasting: bool = False
    """Whether it comes into being again after all its ends were left; then it is shared before it is there, too."""
    own_journal: Journal | None = None
    """Of the process that it was opened for, if it was for one."""
    user: str = ""
    """The process that it was opened for, if that is known."""
    shared: bool = False
    lease: bytes = field(init=False)
    ttl: bytes = field(init=False)
    type_name: bytes = field(init=False)
    base: str = field(init=False)
    """The beginning of its keys; as bytes, ``key``."""
    key: bytes = field(init=False)
    codec: Codec = field(init=False)

    # The party, as which the server knows this end; it is another one on another event loop.
    client: Client | None = None
    journal: Journal = field(default_factory=Journal)
    party: bytes = b""
    heads: dict[Script, bytes] = field(default_factory=dict)
    run_id: str = ""
    """Of the server's process that has told of the channel."""
    joined: bool = False
    """Whether the server was told of this end."""
    born: bytes = b""
    """Which channel was joined: after its data was deleted, there may be another one with the same keys."""
    early: list[tuple[Script, tuple[bytes, ...], Answer | None, bool]] | None = None
    """What was asked before it is known which channel was joined; None if that is known."""
    syncing: bool = False
    """Whether the lease is being renewed."""
    look_again: bool = False
    """Whether something may have become ready that nobody has told of."""
    left: bool = False
    close_put_off: bool = False
    """Whether it is closed if the process turns out not to be run again elsewhere."""
    vain: bool = False
    """Whether the channel is gone, so that nothing can come of it any more."""
    total: int | None = None
    """Number of the last value, once the server has told that the channel is closed."""
    data_lost: StbassError | None = None
    """That the server has lost the channel, if it has."""

    # The two places; what a bound side was refused with, until somebody asks; the latest refusal of all.
    places: dict[Place, int] = field(default_factory=lambda: {"w": FREE, "r": FREE})
    problems: dict[Place, StbassError] = field(default_factory=dict)
    refusal: StbassError | None = None
    wanted: set[Place] = field(default_factory=set)
    """What is being given back, and is to be held again."""
    giving_back: int = 0
    retries: dict[Place, asyncio.TimerHandle] = field(default_factory=dict)
    place_waiters: list[Future[None]] = field(default_factory=list)

    # Arms of choices that are attached: their numbers; which may find something; who asks whether they would.
    arms: dict[Arm, int] = field(default_factory=dict)
    arms_by_number: dict[int, Arm] = field(default_factory=dict)
    last_arm: int = 0
    hot: set[Arm] = field(default_factory=set)
    heard: set[Arm] = field(default_factory=set)
    """Those that the server knows."""
    registered: dict[Arm, Future[bool]] = field(default_factory=dict)
    meeting: dict[Place, asyncio.Lock] = field(default_factory=lambda: {"w": asyncio.Lock(), "r": asyncio.Lock()})
    # Rendezvous: claims to answer when the choice has decided; arms whose choice was busy when claimed; proposals.
    put_off: dict[Arm, list[tuple[str, str]]] = field(default_factory=dict)
    refused: set[Arm] = field(default_factory=set)
    proposals: dict[str, Future[bool]] = field(default_factory=dict)

    # Writing: sends that wait; the number of the last value; what is acknowledged, as far as was told.
    queue: deque[PendingSend] = field(default_factory=deque)
    sends: dict[Future[Any], PendingSend] = field(default_factory=dict)
    number: int = 0
    acked: int = 0
    written: int = 0
    """Number of the last value that is known to stand in Redis."""
    sent: int = 0
    sent_at: float = 0.0
    # Rendezvous: offered and not acknowledged, in order; offers that cannot wait, and whether they are taken.
    pending: dict[int, PendingSend] = field(default_factory=dict)
    urgent: dict[int, Future[bool]] = field(default_factory=dict)
    offering: bool = False
    """Whether an offer has no answer yet: the next one waits for it, because the server may refuse it for now."""
    withdrawing: int = 0
    """How many offers are being taken back, or are such that only an answer makes them one."""
    # Buffered: accepted, and not sent; how many of all accepted are not known to be in Redis, who wants to hear that
    # they are, what comes after that, and why they never will be.
    outbox: list[bytes] = field(default_factory=list)
    put_back: int = 0
    """How many of these, from the first, were sent before, and refused."""
    under_way: int = 0
    """How many have been sent, and have no answer yet."""
    unwritten: int = 0
    flushes: list[Future[None]] = field(default_factory=list)
    when_written: list[Callable[[], None]] = field(default_factory=list)
    write_failure: StbassError | None = None
    """Whoever sends next must know."""

    # Reading: who waits, what is here for them, how many were received in the channel's life.
    waiters: deque[Future[Any]] = field(default_factory=deque)
    moved: deque[MovedValue] = field(default_factory=deque)
    got: int = 0
    got_at: float = 0.0
    drained: bool = False
    """Whether the channel is closed, and nothing can be received any more."""
    # The connection of the blocking move, and whether one is under way there, on which lists.
    pipe: Pipe | None = None
    blocked: bool = False
    epoch: int = 0
    stays: bool = False
    """Whether this end does not leave, though the channel is closed: others may still come, and are told why."""
    told_wait: bool = False
    """Whether the server was told that a receive waits."""
    stale: bool = False
    """Whether values may have been moved for a connection that is gone: only new lists bring them here."""
    overdue: tuple[int, int, float] | None = None
    """How far the reader was when values were in the server, and an answer on that connection was still to come; since
    when that is so."""
    fetching: int = 0
    """How many fetches are under way."""
    overtaking: list[bytes] = field(default_factory=list)
    """What a blocking move has brought meanwhile."""
    when_fetched: list[Callable[[], None]] = field(default_factory=list)
    # Rendezvous: numbers of what is here; what was acknowledged during a blocking move, which may bring it again.
    known: set[int] = field(default_factory=set)
    settled: set[int] = field(default_factory=set)
    # Rendezvous: the acknowledgement that is under way, for whom, and what became of it.
    acking: bool = False
    acking_for: Future[Any] | None = None
    resend: Callable[[], None] | None = None
    outcomes: dict[Future[Any], Any] = field(default_factory=dict)
    withdrawals: dict[Future[Any], Future[Any]] = field(default_factory=dict)
    # Buffered, each up to this number: moved here; received; acknowledged; known to be acknowledged; told to the writer
    # as room. And why what was received may be received again.
    last_moved: int = 0
    received: int = 0
    told: int = 0
    confirmed: int = 0
    credited: int = 0
    doubt: StbassError | None = None

    def __post_init__(self) -> None:
        options, spec = self.options, self.spec
        # Milliseconds.
        self.lease = b"%d" % (options.lease * 1000)
        self.ttl = b"%d" % (options.ttl * 1000)
        self.type_name = spec.type_name.encode("utf-8", "surrogatepass")
        self.base = base_key(options.address.prefix, self.id, self.namespace)
        self.key = self.base.encode()
        self.codec = Codec(spec.name, self.id, options.signer, options.max_message_bytes)

    def enter(self, client: Client, number: int) -> None:
        """It is another party from now on."""
        self.client = client
        self.journal = self.own_journal or client.journal
        self.party = b"%b.%d" % (client.id.encode(), number)
        self.joined = self.left = self.syncing = self.offering = False
        self.total = None
        self.early = []
        self.belong(self.born)

    def belong(self, born: bytes) -> None:
        """It is an end of this channel; empty: of whichever is there."""
        self.born = born
        key, party = self.key, self.party
        whole = b"%b %b" % (party, born) if born else party
        self.heads = {}
        for script in ALL:
            caller = party if script.lean else whole
            self.heads[script] = b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
                *(script.sha, len(key), key),
                *(len(caller), caller),
            )

    def text(self, script: Script, *args: bytes) -> bytes:
        """A call of a script as it goes over the wire."""
        return (
            b"*%d\r\n" % (5 + len(args))
            + self.heads[script]
            + b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])
        )

    def where(self, client: Client) -> str:
        """Where this end is, and of which process, for messages."""
        return f"{client.who} (process {self.user!r})" if self.user else client.who

    def held_by(self, place: Place, own: str | None, me: str, owner: str, who: str, since: Any) -> ChannelTopologyError:
        """The error for who wants a place that another end has."""
        mine = own or f"an unbound end at {me}"
        holder = f"{owner!r} at {who}" if owner else f"an unbound end at {who}"
        when = datetime.fromtimestamp(float(since) / 1000, UTC)
        return ChannelTopologyError(
            f"channel {self.spec.name!r} already has a {'writer' if place == 'w' else 'reader'}: {holder}, since"
            f" {when:%Y-%m-%d %H:%M:%S} UTC; {repr(own) if own else mine} cannot be another. A channel has one"
            f" writer and one reader; unbind the first, or use a channel for each",
            channel_name=self.spec.name,
            holder=owner,
            refused=mine,
            since=when,
        )

    def superseded(self, place: Place) -> ChannelTopologyError:
        """The error for a process that the fleet has given up, and that runs again elsewhere."""
        return ChannelTopologyError(
            f"channel {self.spec.name!r}: process {self.user!r} has been started again, and that later attempt is the"
            f" {'writer' if place == 'w' else 'reader'} now: what this one does does not count any more",
            channel_name=self.spec.name,
        )

    def undone(self) -> ChannelTopologyError:
        """The error for a value that was not sent because of what the program has lost elsewhere."""
        return ChannelTopologyError(
            f"channel {self.spec.name!r}: nothing was sent, because what this program had received on another channel,"
            f" and not acknowledged, goes to somebody else: it has lost the reader's place there",
            channel_name=self.spec.name,
        )

    def other_type(self, theirs: bytes) -> ChannelTopologyError:
        """The error for an end whose type is not that of the channel."""
        return ChannelTopologyError(
            f"channel {self.spec.name!r}: this end carries {self.spec.type_name}, the other end"
            f" {theirs.decode('utf-8', 'replace')}; make both with the same type",
            channel_name=self.spec.name,
        )

    def renewed(self) -> None:
        """What was moved here comes again, or is another's."""
        self.moved.clear()
        self.known.clear()
        self.settled.clear()
        self.overtaking.clear()

    def problem(self, reply: Any) -> StbassError:
        """What to raise for a reply that is an error."""
        if isinstance(reply, StbassError):
            # One for each who waits: a traceback belongs to one raising.
            return type(reply)(str(reply), **reply.__dict__)
        where = f"Redis at {self.options.address}"
        if "WRONGTYPE" in str(reply):
            return ChannelTopologyError(
                f"channel {self.spec.name!r}: a key that begins with {self.base!r} holds something else in {where}:"
                f" another program uses the name. Delete that key, or use another database",
                channel_name=self.spec.name,
            )
        return BackendUnavailableError(f"channel {self.spec.name!r}: {where} refused: {reply}")

    def data_gone(self, cause: str) -> StateLostError:
        """The error for a channel whose data is not there any more."""
        return StateLostError(
            f"channel {self.spec.name!r} is not in Redis at {self.options.address} any more: {cause}. What was under"
            f" way is lost. Let the server keep its data (appendonly yes) and evict nothing (maxmemory-policy"
            f" noeviction), and do not flush it while channels are open"
        )

    def transport_closed(self) -> BackendUnavailableError:
        """The error for what was under way when the transport was closed."""
        return BackendUnavailableError(f"channel {self.spec.name!r}: {self.transport} was closed meanwhile")

    def process_ended(self) -> BackendUnavailableError:
        """The error for who uses an end that was a process's, after that has ended: a task that it has left behind."""
        return BackendUnavailableError(
            f"channel {self.spec.name!r}: process {self.user!r} has ended, and its ends of channels were given up;"
            f" whatever uses them must be awaited in the process"
        )

    def holds(self, place: Place) -> bool:
        """Whether this end holds the place."""
        return self.places[place] == HELD

    def doubt_number(self) -> None:
        """Nobody knows what the server has of what was offered: it is asked before anything else is."""
        if self.places["w"] == HELD:
            self.places["w"] = FREE

    def place_changed(self) -> Future[None]:
        """Done when something becomes of a place that is asked for, or given back."""
        future: Future[None] = asyncio.get_running_loop().create_future()
        self.place_waiters.append(future)
        return future

    def tell_places(self) -> None:
        """Something has become of a place."""
        waiting, self.place_waiters = self.place_waiters, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def forget_places(self) -> None:
        """Neither is held any more."""
        self.places = {"w": FREE, "r": FREE}
        self.wanted.clear()
        for handle in self.retries.values():
            handle.cancel()
        self.retries.clear()
        self.tell_places()

    def stop_retry(self, place: Place) -> None:
        """Ask no more for a place by itself."""
        handle = self.retries.pop(place, None)
        if handle is not None:
            handle.cancel()

    @property
    def sending(self) -> bool:
        """Whether something that is sent here has no answer yet."""
        return bool(self.pending or self.urgent or self.unwritten or self.withdrawing or self.when_written)

    def resolve(self, send: PendingSend) -> None:
        """A send has happened."""
        send.happened = True
        if not send.waiter.done():
            self.sends.pop(send.waiter, None)
            send.waiter.set_result(None)

    def fail_sends(self, error: Callable[[], StbassError]) -> None:
        """No send that waits can go on."""
        sends = [*self.pending.values(), *self.queue]
        self.pending.clear()
        self.queue.clear()
        for send in sends:
            self.fail_send(send, error())
        self.settle_urgent()

    def fail_send(self, send: PendingSend, error: StbassError) -> None:
        """A send that waits cannot go on."""
        if not send.waiter.done():
            self.sends.pop(send.waiter, None)
            send.waiter.set_exception(error)

    def settle_urgent(self) -> None:
        """No offer that cannot wait is taken."""
        for number in self.urgent:
            self.told_urgent(number, False)

    def told_urgent(self, number: int, taken: bool) -> None:
        """What became of an offer that could not wait."""
        outcome = self.urgent.get(number)
        if outcome is not None and not outcome.done():
            outcome.set_result(taken)

    def on_fetched(self, then: Callable[[], None]) -> None:
        """Call a function when no fetch is under way."""
        if self.fetching:
            self.when_fetched.append(then)
        else:
            then()

    def end_fetch(self, *, all_of_them: bool = False) -> None:
        """A fetch was answered, or none ever is."""
        self.fetching = 0 if all_of_them else max(0, self.fetching - 1)
        if not self.fetching:
            waiting, self.when_fetched = self.when_fetched, []
            for then in waiting:
                then()

    def drop_pipe(self) -> None:
        """Give up the connection of the blocking move."""
        pipe, self.pipe = self.pipe, None
        blocked, self.blocked = self.blocked, False
        if pipe is None or self.client is None:
            return
        if blocked or pipe.closed or not pipe.idle:
            pipe.drop()
            # What was under way there is never answered.
            self.end_fetch(all_of_them=True)
        else:
            self.client.give_back(pipe)

    def fail_receives(self, error: Callable[[], StbassError]) -> None:
        """No receive that waits can go on."""
        waiters, self.waiters = self.waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error())

    def stats(self) -> ChannelStats:
        """What the channel has done, as far as is known here."""
        waiting: Literal["sender", "receiver"] | None = None
        if self.queue or self.pending or self.moved:
            waiting = "sender"
        elif any(not waiter.done() for waiter in self.waiters):
            waiting = "receiver"
        last = max(self.got_at, self.sent_at)
        return ChannelStats(
            max(self.sent, self.got), self.got, waiting, datetime.fromtimestamp(last, UTC) if last else None
        )

    @property
    def used(self) -> bool:
        """Whether a value was ever sent, or anybody waits."""
        return bool(
            self.sent
            or self.queue
            or self.pending
            or self.got
            or any(not one.done() for one in self.waiters)
            or self.arms
        )
