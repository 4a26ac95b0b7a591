"""One event loop's part in all of its channels: the connection, the messages that come in, the leases."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import weakref
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import msgspec

from stbass._values.ids import new_id
from stbass.errors import BackendUnavailableError, StbassError
from stbass.transports.redis import scripts
from stbass.transports.redis.address import RedisAddress
from stbass.transports.redis.connection import Answer, Pipe, command
from stbass.transports.redis.keys import inbox
from stbass.transports.redis.scripts import Script
from stbass.transports.redis.trouble import Vigil, is_forbidden
from stbass.wire import Signer

__all__ = ["Client", "Journal", "OpenEnd", "Options", "ScriptCall", "Teller"]

_log = logging.getLogger(__name__)
_LEAVE_SECONDS = 2.0
_SPARE_PIPES = 8
_LONGEST_SILENCE = 10.0
"""Seconds after which an end asks at the latest whether its channel is still there, however long the lease is."""
_WELL_SECONDS = 0.5
"""A server that refused is well again when it has refused nothing for so many seconds."""
_decode = msgspec.msgpack.Decoder().decode


QUIET = 0.001
"""Seconds: who has written nothing for so long does not wait for the end of the turn to write."""


ALONE = 0.0001
"""Seconds: who offers values more often than this writes them together at the end of the turn."""


class ScriptCall(NamedTuple):
    """A call of the script OFFER or ACK, which may be sent with others: see the script TURN."""

    script: Script
    key: bytes
    args: tuple[bytes, ...]
    answer: Answer


class OpenEnd(Protocol):
    """One end of a channel, as its client sees it."""

    @property
    def name(self) -> str:
        """Of the channel, for messages."""

    @property
    def uncertain(self) -> bool:
        """Whether something has happened there, and the server may not know it."""

    def told(self, kind: str, details: list[Any]) -> None:
        """A message came. Raises ``ValueError`` if it is none that a script sends."""

    def sync(self, *, restarted: bool | None = None) -> None:
        """Renew the lease, and ask for what may not have been told; ``restarted`` is given after a reconnection."""

    def unreachable(self, problem: StbassError) -> None:
        """The server stays away."""

    def on_pause(self) -> None:
        """The server refuses for now: what does not wait for it is told so."""

    def on_resume(self) -> None:
        """Ask again for what the server has refused."""

    async def flush(self) -> None:
        """Return when the server knows everything that has happened there."""

    @property
    def journal(self) -> Journal:
        """Of the program whose end it is."""

    def undo(self, error: StbassError) -> None:
        """What the program has not told is lost, with what it has received; ``error`` says why."""

    def leave(self, *, final: bool) -> asyncio.Future[None] | None:
        """Give up the end. Done when the server knows."""

    def drop_pipe(self) -> None:
        """Give up its connection for blocking reads."""


class Teller(Protocol):
    """An end of a channel where operations have happened that the server does not know of."""

    @property
    def journal(self) -> Journal:
        """Of the program whose end it is."""

    def tell_alone(self) -> bool:
        """There is nothing else to tell: use a connection of its own, if that is better; whether it was done."""

    def calls(self) -> list[ScriptCall]:
        """What tells the server, for the client's own connection. From now on it counts as told."""

    def after_calls(self) -> None:
        """What :meth:`calls` gave was written."""


def _short(run: str) -> bytes:
    return blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest().encode()


class Journal:
    """What one program does with channels: a process of a fleet, or all that is in one event loop.

    The server learns of its operations in their order, but not of a receive that is the latest of all: the program may
    still be at work on that value, and if it is killed the value goes to the next reader. So the receive is told
    together with what the program does next: with what it sends, in one step.

    If it has lost a place by then, the whole step is not done, and none that comes after it. Ends are kept by weak
    references: what was not told keeps no channel.

    Args:
        is_process: whether it is one process, which fails as a whole if a part of what it has done is lost.
    """

    __slots__ = (
        "broken_off",
        "ended",
        "failure",
        "held_up",
        "in_hand",
        "is_process",
        "put_off",
        "runs",
        "unheard",
        "writing",
    )

    def __init__(self, *, is_process: bool = False) -> None:
        self.is_process = is_process
        self.in_hand: weakref.ref[Any] | None = None
        """The end (a :class:`Teller`) where the latest operation of all was a receive."""
        self.broken_off = False
        """Whether it is run again elsewhere: to give up an end does not say that the value in hand is dealt with."""
        self.ended = False
        """Whether it has left all of its ends, for good."""
        self.failure: StbassError | None = None
        """Why nothing that the process does counts any more."""
        self.runs: Sequence[tuple[str, int]] = ()
        """Which attempts at which runs of processes it is a part of."""
        self.writing: dict[weakref.ref[Any], None] = {}
        """Ends that have accepted values of which is not known whether the server has them."""
        self.unheard: dict[weakref.ref[Any], None] = {}
        """Ends that have told what was received, and have no answer yet."""
        self.held_up: dict[weakref.ref[Any], None] = {}
        """Ends that have to send values again, and ask for the writer's place, which they have lost, or wait for what
        becomes of values that they have sent since: until then nothing is told."""
        self.put_off: dict[Teller, None] = {}
        """What is to be told then."""

    def known_runs(self) -> bytes:
        """:attr:`runs`, as :mod:`.keys` says. Made when it is asked for: most processes have no channels."""
        return b" ".join([b"%b:%d" % (_short(run), attempt) for run, attempt in self.runs])

    def unsure(self, end: weakref.ref[Any]) -> bool:
        """Whether something was told of other ends, or sent, that the server may not do: then what follows is told
        together with that."""
        beside = self.is_process and any(one is not end for one in self.unheard)
        return bool(self.writing or self.held_up or beside)

    @property
    def unsettled(self) -> bool:
        """Whether something was told that the server may not do."""
        return bool(self.writing or self.unheard or self.held_up)

    def unsettled_ends(self) -> list[Any]:
        """The ends of which that is so."""
        return _living(self.writing | self.unheard)

    def writers(self) -> list[Any]:
        """The ends that have accepted values of which is not known whether the server has them."""
        return _living(self.writing)

    def forget(self, end: weakref.ref[Any]) -> None:
        """Nobody has that end any more."""
        for ends in (self.writing, self.unheard, self.held_up):
            ends.pop(end, None)

    def calls(self, ends: dict[Teller, None]) -> list[ScriptCall]:
        """What tells the server, in one step, what has happened at these ends, and what it may not know of others."""
        if self.failure is not None:
            return []
        if self.held_up:
            self.put_off |= ends
            return []
        # What was told before may be refused, or lost with another connection, and must not be missing before this.
        for ref in self.unheard:
            if (end := ref()) is not None:
                ends[end] = None
        before = list(self.writing)
        calls = [call for end in ends for call in end.calls()]
        if calls and before:
            offering = {call.key for call in calls if call.script is scripts.OFFER}
            writers = [end for ref in before if (end := ref()) is not None]
            calls += [end.precondition() for end in writers if end.state.key not in offering]
        return calls


def _living(ends: dict[weakref.ref[Any], None]) -> list[Any]:
    return [end for ref in ends if (end := ref()) is not None]


class Options(msgspec.Struct, frozen=True):
    """What a transport was made with."""

    address: RedisAddress
    lease: float
    ttl: float
    give_up: float
    namespace: str | None
    signer: Signer | None
    max_message_bytes: int
    known: bool


class Client:
    """The ends of channels that one event loop has open."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.loop = asyncio.get_running_loop()
        # Names of publish/subscribe are not kept apart by database.
        self.id = f"{options.address.database}:{new_id()}"
        self.who = f"{socket.gethostname()}:{os.getpid()}"
        self._vigil = Vigil("use channels", options.address, _log)
        self._again: asyncio.TimerHandle | None = None
        self._well: asyncio.TimerHandle | None = None
        self.allowed: set[bytes] = set()
        """Commands that the server has done: if it forbids one, its rules have changed."""
        self.pipe = Pipe(
            options.address,
            give_up=options.give_up,
            on_push=self._pushed,
            on_up=self._up,
            on_give_up=self._gave_up,
            on_deaf=self._deaf,
            on_refused=self._refused,
            vigil=self._vigil,
            subscribe=inbox(options.address.prefix, self.id),
            known=options.known,
        )
        self._links: weakref.WeakValueDictionary[int, OpenEnd] = weakref.WeakValueDictionary()
        self._numbers = 0
        self._spare: list[Pipe] = []
        self._lent: weakref.WeakSet[Pipe] = weakref.WeakSet()
        self._renewal: asyncio.TimerHandle | None = None
        self._warned: set[str] = set()
        self.refused: dict[str, int] = {}
        """How many values were refused, by kind of reason."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._leaving: set[asyncio.Future[None]] = set()
        self.closing = False
        self.journal = Journal()
        self.uncommitted: dict[Teller, None] = {}
        """What has happened here and the server does not know, in order of what came first."""
        self.committed_at = 0.0
        self.offered_at = 0.0
        self._end = self.loop.create_task(self._close_at_the_end(), name="stbass-channels")

    def enter(self, link: OpenEnd) -> int:
        """Keep an end's lease, and hand it its messages; gives the number of the party."""
        self._numbers += 1
        self._links[self._numbers] = link
        if self._renewal is None:
            self._renew_later()
        return self._numbers

    def leave_for(self, texts: Sequence[bytes], pipe: Pipe | None) -> None:
        """Send the commands by which an end is given up that nobody has any more, and drop its connection."""
        if not self.closing:
            answered = self.loop.create_future()
            self._leaving.add(answered)
            answered.add_done_callback(self._leaving.discard)
            for text in texts[:-1]:
                self.pipe.call(text)
            self.pipe.call(texts[-1], lambda _: None if answered.done() else answered.set_result(None))
        if pipe is not None:
            pipe.drop()

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Do something beside."""
        task: asyncio.Task[Any] = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def warn(self, kind: str, text: str) -> None:
        """Count something that was refused, and log the first of its kind."""
        self.refused[kind] = self.refused.get(kind, 0) + 1
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("%s", text)

    async def connected(self, client_id: str) -> bool:
        """Whether the server has a connection of this client now: it has none of one that died."""
        reply = await self._ask(command(b"PUBSUB", b"NUMSUB", inbox(self.options.address.prefix, client_id).encode()))
        return bool(reply[1])

    async def purge(self, bases: Sequence[str]) -> None:
        """End channels, by the beginnings of their keys: whoever has them open finds them closed."""
        calls = [command(b"EVALSHA", scripts.PURGE.sha, b"1", base.encode(), b"") for base in bases]
        await asyncio.gather(*map(self._ask, calls))

    def _ask(self, text: bytes) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()

        def answered(reply: Any) -> None:
            if future.done():
                return
            if isinstance(reply, StbassError):
                future.set_exception(reply)
            elif isinstance(reply, Exception):
                future.set_exception(BackendUnavailableError(f"Redis at {self.options.address} refused: {reply}"))
            else:
                future.set_result(reply)

        self.pipe.call(text, answered)
        return future

    # Values of channels with a capacity: what happens in one turn goes out together ------------------------------

    def happened(self, end: Teller, *, wakes: bool = False) -> None:
        """A value was accepted or received without asking: the server is told at the end of the turn, or before.

        Args:
            end: where.
            wakes: whether somebody waited for it, who is about to run: then it is the end of that turn. What a killed
                program had not even begun to deal with was not received.
        """
        if not self.uncommitted:
            if wakes:
                self.loop.call_soon(self.loop.call_soon, self.commit)
            else:
                self.loop.call_soon(self.commit)
        self.uncommitted[end] = None

    def goes_on(self, journal: Journal) -> None:
        """A program does something else: it has dealt with what it received last."""
        in_hand, journal.in_hand = journal.in_hand, None
        end = None if in_hand is None else in_hand()
        if end is not None:
            self.happened(end)

    def is_quiet(self, now: float) -> bool:
        """Whether there is no reason to wait for more to write."""
        return now - self.committed_at > QUIET

    def is_alone(self) -> bool:
        """Whether nothing was offered here a moment ago: else more is likely to follow, and goes out with it."""
        now = time.perf_counter()
        before, self.offered_at = self.offered_at, now
        return now - before > ALONE

    def commit(self) -> None:
        """Tell the server what has happened so far: of each program it learns all of it, or nothing.

        It is called between two operations of the program, never within one, and before the server is told anything
        else. So what is in Redis is always what the program had done at one moment.
        """
        ends = self.uncommitted
        if not ends or self.pipe.paused:
            return
        self.uncommitted = {}
        self.committed_at = time.time()
        if len(ends) == 1 and next(iter(ends)).tell_alone():
            return
        programs: dict[Journal, dict[Teller, None]] = {}
        for end in ends:
            if (own := programs.get(end.journal)) is None:
                programs[end.journal] = {end: None}
            else:
                own[end] = None
        turn = [calls for journal, own in programs.items() if (calls := journal.calls(own))]
        if len(turn) == 1 and len(turn[0]) == 1:
            [(script, key, args, answer)] = turn[0]
            self.pipe.call(command(b"EVALSHA", script.sha, b"1", key, *args), answer, waits=False)
        elif turn:
            self._call_together(turn)
        self.pipe.push()
        for own in programs.values():
            for end in own:
                end.after_calls()

    def _call_together(self, turn: list[list[ScriptCall]]) -> None:
        args, calls = [b"turn"], []
        for number, program in enumerate(turn):
            for call in program:
                calls.append(call)
                kind = b"o" if call.script is scripts.OFFER else b"a"
                args += (kind, b"%d" % number, b"%d" % len(call.args), *call.args)

        def answered(reply: Any) -> None:
            replies = reply if isinstance(reply, list) else [reply] * len(calls)
            for call, one in zip(calls, replies, strict=True):
                call.answer(one)

        keys = [call.key for call in calls]
        self.pipe.call(command(b"EVALSHA", scripts.TURN.sha, b"%d" % len(keys), *keys, *args), answered, waits=False)

    def can_tell(self, end: weakref.ref[Any], journal: Journal) -> None:
        """An end is not held up any more, or gives up: what was put off can be told."""
        journal.held_up.pop(end, None)
        if not journal.held_up:
            put_off, journal.put_off = journal.put_off, {}
            for one in put_off:
                self.happened(one)

    def undo(self, journal: Journal, error: StbassError) -> None:
        """A part of what a program has done is lost, so nothing that follows may count."""
        if journal.is_process:
            if journal.failure is not None:
                return
            journal.failure = error
        for link in list(self._links.values()):
            if link.journal is journal:
                link.undo(error)

    # Connections for blocking reads --------------------------------------------------------------

    def take_pipe(self, on_down: Any) -> Pipe:
        """A connection of its own, for one blocking read at a time."""
        while self._spare:
            pipe = self._spare.pop()
            if not pipe.closed:
                pipe.on_down = on_down
                return pipe
        pipe = Pipe(
            self.options.address,
            give_up=self.options.give_up,
            on_down=on_down,
            on_refused=self._refused,
            vigil=self._vigil,
            known=True,
        )
        self._lent.add(pipe)
        return pipe

    def _deaf(self) -> None:
        """The server did not answer. On a blocking read nobody can tell whether it will: these are made anew too."""
        for pipe in list(self._lent):
            pipe.reset()

    def give_back(self, pipe: Pipe) -> None:
        """Nothing is read from it now."""
        if len(self._spare) < _SPARE_PIPES and not self.closing and not pipe.closed:
            pipe.on_down = _nothing
            self._spare.append(pipe)
        else:
            pipe.drop()

    # What comes in -------------------------------------------------------------------------------

    def _pushed(self, push: list[Any]) -> None:
        if push[0] != b"message":
            return
        try:
            number, kind, *details = _decode(push[2])
            link = self._links.get(number)
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            self.warn("message", f"refused a message on {inbox(self.options.address.prefix, self.id)}: {error}")
            return
        if link is not None:
            try:
                link.told(kind, details)
            except (ValueError, TypeError, IndexError, OverflowError, OSError) as error:
                self.warn("message", f"refused a message for channel {link.name!r}: {error}")

    def _up(self, restarted: bool) -> None:
        """The connection was lost and stands again: ask for everything that may have been told meanwhile."""
        self._well_soon()
        for link in list(self._links.values()):
            link.sync(restarted=restarted)

    def _gave_up(self, problem: StbassError) -> None:
        """The connection was lost and cannot be made anew: nothing will be told of what waits here."""
        for link in list(self._links.values()):
            link.unreachable(problem)

    def _renew(self) -> None:
        self._renewal = None
        links = list(self._links.values())
        for link in links:
            link.sync()
        if links and not self.closing:
            self._renew_later()

    def _renew_later(self) -> None:
        self._renewal = self.loop.call_later(min(self.options.lease / 3, _LONGEST_SILENCE), self._renew)

    # A server that refuses for now ---------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether nothing is asked of the server, because it refuses for now."""
        return self.pipe.paused

    def _refused(self, text: bytes, error: Exception) -> bool:
        """The server refuses a command for now; False: it never did it, or has refused it for too long."""
        name = b"BLMOVE" if b"BLMOVE" in text[:24] else b"EVALSHA"
        if is_forbidden(error) and (name not in self.allowed or self._vigil.lasts > self.options.give_up):
            return False
        if self._again is None and not self.closing:
            pause = self._vigil.pause(error)
            if self._well is not None:
                self._well.cancel()
            self.pipe.paused = True
            self._again = self.loop.call_later(pause, self._resume, "READONLY" in str(error))
            for link in list(self._links.values()):
                link.on_pause()
        return True

    def _resume(self, elsewhere: bool) -> None:
        """Ask again for everything that was refused; ``elsewhere``: another server may be the one to ask by now."""
        self._again = None
        self._well_soon()
        if elsewhere:
            for pipe in (self.pipe, *self._lent):
                pipe.reset()
        self.pipe.resume()
        for link in list(self._links.values()):
            link.on_resume()
        self.commit()

    def _well_soon(self) -> None:
        """The server is asked again: it is well if it refuses nothing for a while."""
        if self._well is not None:
            self._well.cancel()
        self._well = self.loop.call_later(_WELL_SECONDS, self._well_now)

    def _well_now(self) -> None:
        # While a connection is made, which the server may refuse too, nothing else is asked; then it begins anew.
        if self.pipe.ready and not self.paused:
            self._vigil.over()

    # The end -------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Return when the server knows everything that has happened here.

        Raises:
            StbassError: as :meth:`stbass.Chan.flush`.
        """
        for link in list(self._links.values()):
            await link.flush()

    async def aclose(self) -> None:
        """Leave every channel and close the connections."""
        self._end.cancel()
        await asyncio.gather(self._end, return_exceptions=True)

    async def _close_at_the_end(self) -> None:
        """Wait to be cancelled, which at the latest ``asyncio.run`` does."""
        try:
            await self.loop.create_future()
        finally:
            await self._close()

    async def _close(self) -> None:
        self.closing = True
        for handle in (self._renewal, self._again, self._well):
            if handle is not None:
                handle.cancel()
        self.pipe.resume()
        links = list(self._links.values())
        uncertain = any(link.uncertain for link in links)
        left = {future for link in links if (future := link.leave(final=True)) is not None} | self._leaving
        if left and self.pipe.ready:
            # Otherwise whoever makes the connection is being cancelled too.
            _, left = await asyncio.wait(left, timeout=_LEAVE_SECONDS)
        if left and uncertain:
            _log.warning(
                "Redis at %s does not answer: values that channels had accepted may be lost, and what was received may"
                " be received again; aclose() waits longer, and says so",
                self.options.address,
            )
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pipe in self._spare:
            await pipe.aclose()
        for link in list(self._links.values()):
            link.drop_pipe()
        await self.pipe.aclose()


def _nothing() -> None:
    """Nobody reads from a spare connection."""
