"""A transport over TCP, for the tests: channels live in a hub, both ends are far from it.

It shows that the Transport contract carries a transport whose every answer takes a round trip, without a change to
``Chan`` or ``ALT``; and it is small enough to be read next to the contract.
"""

from __future__ import annotations

import asyncio
import json
import threading
from asyncio import Future, StreamReader, StreamWriter, Task
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Queue
from typing import Any, ClassVar, Literal

from stbass._channels.choice import DECIDING, Choice
from stbass._channels.memory import MemoryLink
from stbass._channels.transport import NOTHING, Arm, ChannelStats, Happened, Link, LinkSpec, Side, Transport
from stbass._values.ids import new_id
from stbass.errors import ChannelClosedError, ChannelTopologyError, StbassError

Message = dict[str, Any]


# The hub -----------------------------------------------------------------------------------------


class FarChoice(Choice):
    """A choice at a client: it is told over the wire, and claimed over the wire."""

    __slots__ = ("client", "far_passive", "far_rank", "key")

    def __init__(self, client: Client, key: int, message: Message) -> None:
        super().__init__()
        self.client = client
        self.key = key
        self.far_rank: str = message["rank"]
        self.far_passive: bool = message["passive"]

    def wake(self) -> None:
        self.client.post({"event": "ready", "arm": self.key})


@dataclass
class Room:
    """One channel: a channel in memory, and who holds its sides."""

    link: MemoryLink
    type_name: str
    owners: dict[str, str] = field(default_factory=dict)
    arms: list[Arm] = field(default_factory=list)

    def facing(self, arm: Arm) -> list[tuple[Arm, FarChoice]]:
        """Choices at the other side that may be claimed for this one."""
        own = arm.choice
        assert isinstance(own, FarChoice)
        found = []
        for other in self.arms:
            choice = other.choice
            assert isinstance(choice, FarChoice)
            if other.reader != arm.reader and other.open and not choice.far_passive and choice.far_rank != own.far_rank:
                found.append((other, choice))
        return found

    def tell_facing(self, arm: Arm) -> None:
        """A choice waits on this side now."""
        for other in self.arms:
            if other.reader != arm.reader:
                other.notify()


class Client:
    """A connection, as the hub sees it."""

    def __init__(self, hub: Hub, writer: StreamWriter) -> None:
        self.hub = hub
        self.writer = writer
        self.pending: dict[int, tuple[Room, Future[Any]]] = {}
        self.arms: dict[int, tuple[Room, Arm]] = {}
        self.claims: dict[int, Future[Message]] = {}
        self.works: set[Task[None]] = set()

    def post(self, message: Message) -> None:
        if not self.writer.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\n")

    async def serve(self, reader: StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = json.loads(line)
                answer = getattr(self, f"on_{message['op']}")(message)
                if answer is not None:
                    self.post({"n": message["n"], **answer})
        finally:
            for work in self.works:
                work.cancel()
            for room, arm in self.arms.values():
                room.link.detach(arm)
                room.arms.remove(arm)
            self.writer.close()

    def on_create(self, message: Message) -> Message:
        room = self.hub.rooms.get(message["room"])
        if room is None:
            spec = LinkSpec(message["name"], message["capacity"], message["type"], lambda value, _: value)
            room = self.hub.rooms[message["room"]] = Room(MemoryLink(spec), message["type"])
        return {"closed": room.link.closed}

    def room(self, message: Message) -> Room:
        return self.hub.rooms[message["room"]]

    def on_offer(self, message: Message) -> Message | None:
        link = self.room(message).link
        try:
            waiter = link.offer(message["value"])
        except ChannelClosedError:
            return {"closed": True}
        if waiter is None:
            return {"value": None}
        self.later(message, waiter)
        return None

    def on_take(self, message: Message) -> Message | None:
        link = self.room(message).link
        try:
            value = link.try_take()
        except ChannelClosedError:
            return {"closed": True}
        if value is not NOTHING:
            return {"value": value}
        self.later(message, link.take())
        return None

    def later(self, message: Message, waiter: Future[Any]) -> None:
        number = message["n"]
        self.pending[number] = self.room(message), waiter

        def answer(waiter: Future[Any]) -> None:
            if self.pending.pop(number, None) is None or waiter.cancelled():
                return  # it was answered by the withdrawal
            self.post({"n": number, **({"closed": True} if waiter.exception() else {"value": waiter.result()})})

        waiter.add_done_callback(answer)

    def on_withdraw(self, message: Message) -> None:
        self.work(self.withdraw(message))

    async def withdraw(self, message: Message) -> None:
        pending = self.pending.pop(message["of"], None)
        answer: Message = {"answered": True}
        if pending is not None:
            room, waiter = pending
            happened = await room.link.withdraw(waiter)
            answer = {"withdrawn": True} if happened is None else {"value": happened.value}
        self.post({"n": message["n"], **answer})

    def on_close(self, message: Message) -> Message:
        self.room(message).link.close()
        for client in self.hub.clients:
            client.post({"event": "closed", "room": message["room"]})
        return {}

    def on_bind(self, message: Message) -> Message:
        room, side, owner = self.room(message), message["side"], message["owner"]
        if message["type"] != room.type_name:
            return {"error": f"one end carries {room.type_name}, the other {message['type']}"}
        holder = room.owners.setdefault(side, owner)
        return {} if holder == owner else {"error": f"the {side} is {holder!r}; {owner!r} cannot be another"}

    def on_unbind(self, message: Message) -> Message:
        room = self.room(message)
        if room.owners.get(message["side"]) == message["owner"]:
            del room.owners[message["side"]]
        return {}

    def on_state(self, message: Message) -> Message:
        return {"sent": self.room(message).link.sent}

    # Choice

    def on_attach(self, message: Message) -> None:
        room = self.room(message)
        arm = Arm(FarChoice(self, message["arm"], message), 0, room.link, message["reader"])
        arm.open = message["open"]
        self.arms[message["arm"]] = room, arm
        room.arms.append(arm)
        room.link.attach(arm)
        room.tell_facing(arm)

    def on_detach(self, message: Message) -> None:
        room, arm = self.arms.pop(message["arm"])
        room.link.detach(arm)
        room.arms.remove(arm)

    def on_announce(self, message: Message) -> None:
        room, arm = self.arms[message["arm"]]
        arm.open = message["open"]
        room.tell_facing(arm)

    def on_probe(self, message: Message) -> Message:
        room, arm = self.arms[message["arm"]]
        return {"ready": room.link.ready(arm) or bool(room.facing(arm))}

    def on_meet(self, message: Message) -> None:
        room, arm = self.arms[message["arm"]]
        self.work(self.meet(message, room, arm))

    async def meet(self, message: Message, room: Room, arm: Arm) -> None:
        arm.value = message["value"]
        try:
            happened = await room.link.meet(arm)
        except ChannelClosedError:
            self.post({"n": message["n"], "closed": True})
            return
        if happened is None:
            own = arm.choice
            assert isinstance(own, FarChoice)
            for other, choice in room.facing(arm):
                claim = self.hub.next_number()
                accepted: Future[Message] = asyncio.get_running_loop().create_future()
                choice.client.claims[claim] = accepted
                choice.client.post(
                    {"event": "claim", "arm": choice.key, "claim": claim, "rank": own.far_rank, "value": arm.value}
                )
                answer = await accepted
                if answer["yes"]:
                    room.link._count()
                    happened = Happened(answer["value"] if arm.reader else None)
                    break
                assert other is not arm
        self.post({"n": message["n"], **({"none": True} if happened is None else {"value": happened.value})})

    def on_answer(self, message: Message) -> None:
        self.claims.pop(message["claim"]).set_result(message)

    def work(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.works.add(task)
        task.add_done_callback(self.works.discard)


class Hub:
    """Where the channels live."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.clients: set[Client] = set()
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        client = Client(self, writer)
        self.clients.add(client)
        try:
            await client.serve(reader)
        finally:
            self.clients.discard(client)


@contextmanager
def hub() -> Iterator[int]:
    """A hub in a thread and on an event loop of its own; gives its loopback port."""
    port: Queue[int] = Queue()
    stop: Queue[Callable[[], object]] = Queue()

    async def serve() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.put(lambda: loop.call_soon_threadsafe(stopped.set))
        server = await asyncio.start_server(Hub().serve, "127.0.0.1", 0, limit=2**24)
        async with server:
            port.put(server.sockets[0].getsockname()[1])
            await stopped.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield port.get()
    finally:
        stop.get()()
        thread.join()


# The transport -----------------------------------------------------------------------------------


class HubTransport(Transport):
    """Channels in a hub."""

    scheme: ClassVar[str] = "hub"

    def __init__(self, port: int) -> None:
        self.port = port
        self.links: dict[str, list[HubLink]] = {}
        self.arms: dict[int, tuple[HubLink, Arm]] = {}
        self.answers: dict[int, Callable[[Message], None]] = {}
        self._number = 0
        self._outbox: list[Message] = []
        self._writer: StreamWriter | None = None
        self._pump: Task[None] | None = None

    def __repr__(self) -> str:
        return f"HubTransport({self.port})"

    def link(self, spec: LinkSpec) -> HubLink:
        return HubLink(self, spec, new_id())

    def open(self, spec: LinkSpec, shared: Mapping[str, Any]) -> HubLink:
        return HubLink(self, spec, shared["room"])

    async def aclose(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait((self._pump,))
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()

    def post(self, message: Message, answer: Callable[[Message], None] | None = None) -> int:
        """Send a message; the function is called with the answer."""
        self._number += 1
        message["n"] = self._number
        if answer is not None:
            self.answers[self._number] = answer
        if self._writer is not None:
            self._writer.write(json.dumps(message).encode() + b"\n")
        else:
            self._outbox.append(message)
            if self._pump is None:
                self._pump = asyncio.ensure_future(self._run())
        return self._number

    def next_key(self) -> int:
        """A key for an arm."""
        self._number += 1
        return self._number

    async def _run(self) -> None:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        for message in self._outbox:
            self._writer.write(json.dumps(message).encode() + b"\n")
        while line := await reader.readline():
            message = json.loads(line)
            if "n" in message:
                answered = self.answers.pop(message["n"], None)
                if answered is not None:
                    answered(message)
            elif message["event"] == "closed":
                for link in self.links.get(message["room"], ()):
                    link.has_closed()
            elif (known := self.arms.get(message["arm"])) is not None:
                link, arm = known
                link.on_event(arm, message)
            elif message["event"] == "claim":
                self.post({"op": "answer", "claim": message["claim"], "yes": False})


@dataclass
class Operation:
    """A send or a receive that waits, and what the hub said, if its caller does not want to hear it any more."""

    who: Literal["sender", "receiver"]
    number: int = 0
    answer: Message | None = None


class HubLink(Link):
    """One end of a channel in a hub."""

    def __init__(self, transport: HubTransport, spec: LinkSpec, room: str) -> None:
        super().__init__(spec)
        self.room = room
        self._transport = transport
        self._spec = spec
        self._is_known = False
        self._operations: dict[Future[Any], Operation] = {}
        self._bindings: list[tuple[Side, Awaitable[Message]]] = []
        self._sent = self._received = 0
        self._last: datetime | None = None
        self._keys: dict[Arm, int] = {}
        self._hot: set[Arm] = set()
        self._put_off: dict[Arm, list[Message]] = {}
        self._refused: set[Arm] = set()

    def _post(self, message: Message, answer: Callable[[Message], None] | None = None) -> int:
        if not self._is_known:
            self._is_known = True
            self._transport.links.setdefault(self.room, []).append(self)
            spec = self._spec
            create = {"op": "create", "name": spec.name, "capacity": spec.capacity, "type": spec.type_name}
            self._transport.post(
                {"room": self.room, **create}, lambda answer: self.has_closed() if answer["closed"] else None
            )
        return self._transport.post({"room": self.room, **message}, answer)

    async def _ask(self, message: Message) -> Message:
        answered: Future[Message] = asyncio.get_running_loop().create_future()
        self._post(message, lambda answer: None if answered.done() else answered.set_result(answer))
        return await answered

    # A value moves

    def offer(self, value: Any) -> Future[None]:
        if self.closed:
            raise self.closed_error()
        return self._wait_for(Operation("sender"), {"op": "offer", "value": value})

    def take(self) -> Future[Any]:
        return self._wait_for(Operation("receiver"), {"op": "take"})

    def _wait_for(self, operation: Operation, message: Message) -> Future[Any]:
        waiter: Future[Any] = asyncio.get_running_loop().create_future()

        def answered(answer: Message) -> None:
            operation.answer = answer
            if waiter.done():
                return  # cancelled: withdraw looks at the answer
            del self._operations[waiter]
            if "closed" in answer:
                waiter.set_exception(self.closed_error())
                return
            try:
                waiter.set_result(self._moved(operation, answer))
            except StbassError as error:
                waiter.set_exception(error)

        self._operations[waiter] = operation
        operation.number = self._post(message, answered)
        return waiter

    def _moved(self, operation: Operation, answer: Message) -> Any:
        self._last = datetime.now(UTC)
        if operation.who == "sender":
            self._sent += 1
            return None
        self._received += 1
        return self._spec.accept(answer["value"], self._received - 1)

    async def withdraw(self, waiter: Future[Any]) -> Happened | None:
        operation = self._operations.pop(waiter, None)
        if operation is None:
            return None if waiter.exception() else Happened(waiter.result())
        waiter.cancel()
        if operation.answer is None:
            answer = await self._ask({"op": "withdraw", "of": operation.number})
            if "answered" not in answer:
                self._transport.answers.pop(operation.number)
                operation.answer = answer
        assert operation.answer is not None
        if "closed" in operation.answer or "withdrawn" in operation.answer:
            return None
        return Happened(self._moved(operation, operation.answer))

    # The end

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._post({"op": "close"})

    async def aclose(self) -> None:
        self.closed = True
        await self._ask({"op": "close"})

    def has_closed(self) -> None:
        self.closed = True
        for arm in list(self._keys):
            self._heat(arm)

    # Choice

    def attach(self, arm: Arm) -> None:
        key = self._transport.next_key()
        self._keys[arm] = key
        self._transport.arms[key] = self, arm
        choice = arm.choice
        message = {"op": "attach", "arm": key, "reader": arm.reader, "open": arm.open}
        self._post({**message, "rank": choice.rank, "passive": choice.passive})

    def detach(self, arm: Arm) -> None:
        key = self._keys.pop(arm)
        del self._transport.arms[key]
        self._hot.discard(arm)
        self._refused.discard(arm)
        for claim in self._put_off.pop(arm, ()):
            self._answer(claim, False)
        self._post({"op": "detach", "arm": key})

    def announce(self, arm: Arm) -> None:
        self._post({"op": "announce", "arm": self._keys[arm], "open": arm.open})

    def resume(self, arm: Arm) -> None:
        for claim in self._put_off.pop(arm, ()):
            self._on_claim(arm, claim)
        if arm in self._refused:
            self._refused.discard(arm)
            self._post({"op": "announce", "arm": self._keys[arm], "open": arm.open})

    def ready(self, arm: Arm) -> bool:
        return arm in self._hot

    def _heat(self, arm: Arm) -> None:
        self._hot.add(arm)
        arm.notify()

    def on_event(self, arm: Arm, message: Message) -> None:
        if message["event"] == "ready":
            self._heat(arm)
        else:
            self._on_claim(arm, message)

    def _on_claim(self, arm: Arm, claim: Message) -> None:
        if arm.claim():
            arm.complete(claim["value"])
            self._last = datetime.now(UTC)
            self._answer(claim, True, arm.value)
        elif arm.choice.state == DECIDING and claim["rank"] < arm.choice.rank:
            self._put_off.setdefault(arm, []).append(claim)
        else:
            self._refused.add(arm)
            self._answer(claim, False)

    def _answer(self, claim: Message, yes: bool, value: Any = None) -> None:
        self._post({"op": "answer", "claim": claim["claim"], "yes": yes, "value": value})

    async def probe(self, arm: Arm) -> bool:
        answer = await self._ask({"op": "probe", "arm": self._keys[arm]})
        if answer["ready"]:
            self._hot.add(arm)
        return bool(answer["ready"])

    async def meet(self, arm: Arm) -> Happened | None:
        # Before the question: what is said to be ready after it is news.
        self._hot.discard(arm)
        answer = await self._ask({"op": "meet", "arm": self._keys[arm], "value": arm.value})
        if "closed" in answer:
            self._hot.add(arm)
            raise self.closed_error()
        return (
            None
            if "none" in answer
            else Happened(self._moved(Operation("receiver" if arm.reader else "sender"), answer))
        )

    # Ends

    def bind(self, side: Side, owner: str) -> None:
        super().bind(side, owner)
        self._bindings.append(
            (
                side,
                asyncio.ensure_future(
                    self._ask({"op": "bind", "side": side, "owner": owner, "type": self._spec.type_name})
                ),
            )
        )

    def unbind(self, side: Side) -> None:
        owner = self.writer if side == "writer" else self.reader
        super().unbind(side)
        if owner is not None:
            self._post({"op": "unbind", "side": side, "owner": owner})

    async def bound(self) -> None:
        while self._bindings:
            side, binding = self._bindings.pop(0)
            answer = await binding
            if "error" in answer:
                super().unbind(side)
                raise ChannelTopologyError(f"channel {self.name!r}: {answer['error']}")
        self._sent = (await self._ask({"op": "state"}))["sent"]

    def stats(self) -> ChannelStats:
        waiting = next((operation.who for operation in self._operations.values()), None)
        return ChannelStats(self._sent, self._received, waiting, self._last)

    @property
    def sent(self) -> int:
        return self._sent

    @property
    def used(self) -> bool:
        return bool(self._sent or self._received or self._operations or self._keys)

    def share(self) -> dict[str, Any]:
        # The other end may open it before anything was done here.
        self._post({"op": "state"})
        return {"room": self.room}
