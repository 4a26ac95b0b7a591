"""Two hosts with edges between them: order, backpressure, ends in both directions, checkpoints by marks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from stbass.channel import Chan
from stbass.dataflow import Component, Status
from stbass.dataflow.engine.boundary import Inlet
from stbass.dataflow.engine.edge import Edge, edges_of
from stbass.dataflow.engine.host import Host
from stbass.errors import ChannelClosedError, ChannelTypeError, DataflowError, ProcessCancelled
from stbass.wire import dumps, loads
from tests.support import dataflow_graphs
from tests.support.dataflow import Count, Endless, Keep, Lingers, wire
from tests.support.dataflow_graphs import SHAPES, Keeps


class Line:
    """Carries an edge from one host to another on the same loop, with a few turns of it in between."""

    def __init__(self) -> None:
        self.inlet: Inlet | None = None
        self.batches: list[int] = []

    def to(self, inlet: Inlet) -> None:
        self.inlet = inlet

    async def send(self, items: Sequence[Any]) -> None:
        assert self.inlet is not None
        self.batches.append(len(items))
        for _ in range(dataflow_graphs.pauses.choice((0, 1, 3))):
            await asyncio.sleep(0)
        await self.inlet.deliver([loads(dumps(item)) for item in items])

    async def mark(self, n: int) -> None:
        assert self.inlet is not None
        for _ in range(dataflow_graphs.pauses.choice((0, 1, 3))):
            await asyncio.sleep(0)
        self.inlet.mark(n)

    async def aclose(self) -> None:
        assert self.inlet is not None
        self.inlet.close()


class Ears:
    """Keeps what a host tells."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.quiet_times = 0

    def snapshot_done(self, n: int, parts: Mapping[str, bytes]) -> None:
        self.pair.parts.setdefault(n, {}).update(parts)
        if len(self.pair.parts[n]) == self.pair.size:
            self.pair.done[n].set_result(self.pair.parts[n])

    def snapshot_failed(self, n: int, error: Exception) -> None:
        self.pair.done[n].set_exception(error)

    def status_changed(self, component: str, status: Status) -> None:
        self.pair.statuses.append((component, status))

    def stop_requested(self) -> None:
        for host in self.pair.hosts:
            host.stop()

    def quiet(self) -> None:
        self.quiet_times += 1


class Pair:
    """A process cut in two: every second component here, the others there."""

    def __init__(self, components: list[Component], edges: list[Edge]) -> None:
        self.size = len(components)
        self.parts: dict[int, dict[str, bytes]] = {}
        self.done: dict[int, asyncio.Future[dict[str, bytes]]] = {}
        self.statuses: list[tuple[str, Status]] = []
        sides = [components[::2], components[1::2]]
        self.lines = {edge.id: Line() for edge in edges}
        self.hosts: list[Host] = []
        self.ears: list[Ears] = []
        for side in sides:
            names = {one.name for one in side}
            mine = [edge for edge in edges if {edge.source, edge.target} & names]
            ears = Ears(self)
            self.ears.append(ears)
            self.hosts.append(Host(side, mine, outlets=self.lines, listener=ears))
        for host in self.hosts:
            for edge_id, inlet in host.inlets.items():
                self.lines[edge_id].to(inlet)

    async def init(self, parts: Mapping[str, bytes] | None = None) -> None:
        for host in self.hosts:
            await host.init(parts)

    async def run(self) -> None:
        await asyncio.gather(*(host.run() for host in self.hosts))

    async def destroy(self) -> None:
        for host in self.hosts:
            await host.destroy()

    def cut(self, n: int, first: int) -> asyncio.Future[dict[str, bytes]]:
        """Ask one host for a checkpoint; the other hears of it by a mark, or is asked later."""
        self.done[n] = asyncio.get_running_loop().create_future()
        self.hosts[first].request_snapshot(n)
        return self.done[n]


def pair(shape: str, n: int, maxsize: int) -> Pair:
    components, connections = SHAPES[shape](n)
    connectors = [wire(source, target, maxsize=maxsize) for source, target in connections]
    return Pair(components, edges_of(components, connectors))


def came_out(made: Pair, shape: str) -> list[Any]:
    (sink,) = [host.runners["sink"].component for host in made.hosts if "sink" in host.runners]
    assert isinstance(sink, Keeps)
    return sorted(sink.got) if shape in ("many", "populated") else sink.got


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("maxsize", [1, 5])
async def test_cut_in_two_and_broken_off_at_random_it_gives_the_same(shape: str, maxsize: int) -> None:
    n = 40
    whole = pair(shape, n, maxsize)
    async with asyncio.timeout(10):
        await whole.init()
        await whole.run()
        await whole.destroy()
    expected = came_out(whole, shape)
    assert len(expected) > 8
    broken = 0
    for seed in range(15):
        dice = random.Random(f"{shape} {maxsize} {seed}")
        dataflow_graphs.pauses.seed(seed)
        parts: dict[str, bytes] | None = None
        number = 0
        while True:
            made = pair(shape, n, maxsize)
            async with asyncio.timeout(10):
                await made.init(parts)
                running = asyncio.ensure_future(made.run())
                for _ in range(dice.randint(1, 3)):
                    for _ in range(dice.randint(1, 40)):
                        await asyncio.sleep(0)
                    if running.done():
                        break
                    number += 1
                    first = dice.randint(0, 1)
                    done = made.cut(number, first)
                    for _ in range(dice.randint(0, 4)):
                        await asyncio.sleep(0)
                    made.hosts[1 - first].request_snapshot(number)
                    parts = await done
                for _ in range(dice.randint(0, 20)):
                    await asyncio.sleep(0)
                is_over = running.done()
                if not is_over:
                    broken += 1
                    running.cancel()
                await asyncio.wait((running,))
                await made.destroy()
                if is_over:
                    running.result()
                    break
        assert came_out(made, shape) == expected, f"seed {seed}"
    assert broken > 5


async def test_values_come_in_order_and_in_batches_and_wait_for_room() -> None:
    # given a consumer that does not take anything yet
    class Slow(Keep):
        async def step(self) -> None:
            await go.wait()
            await super().step()

    go = asyncio.Event()
    source, sink = Endless(name="a"), Slow(name="sink")
    made = Pair([source, sink], edges_of([source, sink], [wire("a.y", "sink.x", maxsize=8)]))
    async with asyncio.timeout(5):
        await made.init()
        running = asyncio.ensure_future(made.run())
        for _ in range(200):
            await asyncio.sleep(0)
        # then no more than twice the room is on its way: that of the line, and that of the input
        assert source.made <= 8 + 8 + 3
        before = source.made
        go.set()
        for _ in range(200):
            await asyncio.sleep(0)
        assert source.made > before
        assert sink.got == list(range(len(sink.got)))
        assert max(made.lines["a.y..sink.x"].batches) > 1
        running.cancel()
        await asyncio.wait((running,))
        await made.destroy()


async def test_a_consumer_that_ends_tells_the_other_side() -> None:
    class Some(Keep):
        async def step(self) -> None:
            await super().step()
            if len(self.got) == 3:
                await self.io.close()

    source, sink = Endless(name="a"), Some(name="sink")
    made = Pair([source, sink], edges_of([source, sink], [wire("a.y", "sink.x")]))
    gone: list[bool] = []
    async with asyncio.timeout(5):
        await made.init()
        made.hosts[1].inlets["a.y..sink.x"].on_gone = lambda: gone.append(True)
        await made.run()
        await made.destroy()
    assert gone == [True]
    assert sink.got == [0, 1, 2]
    assert source.status is Status.COMPLETED


async def test_a_line_that_breaks_fails_who_sends_on_it() -> None:
    source, sink = Endless(name="a"), Keep(name="sink")
    made = Pair([source, sink], edges_of([source, sink], [wire("a.y", "sink.x")]))

    async def breaking(items: Sequence[Any]) -> None:
        raise ConnectionError("the other side died")

    async with asyncio.timeout(5):
        await made.init()
        made.lines["a.y..sink.x"].send = breaking  # type: ignore[method-assign]
        with pytest.raises(ExceptionGroup) as caught:
            await made.hosts[0].run()
        await made.destroy()
    assert [type(error) for error in caught.value.exceptions] == [ConnectionError]
    assert source.status is Status.FAILED


async def test_a_line_that_is_told_that_nobody_listens() -> None:
    source, sink = Endless(name="a"), Keep(name="sink")
    made = Pair([source, sink], edges_of([source, sink], [wire("a.y", "sink.x")]))

    async def closed(items: Sequence[Any]) -> None:
        raise ChannelClosedError

    async with asyncio.timeout(5):
        await made.init()
        made.lines["a.y..sink.x"].send = closed  # type: ignore[method-assign]
        await made.hosts[0].run()
        await made.destroy()
    assert source.status is Status.COMPLETED


async def test_what_comes_is_checked() -> None:
    class Floats(Keep):
        x: float

    source, sink = Count(1, name="a"), Floats(name="sink")
    made = Pair([source, sink], edges_of([source, sink], [wire("a.y", "sink.x")]))
    await made.init()
    with pytest.raises(ChannelTypeError, match="'sink', input 'x'"):
        await made.hosts[1].inlets["a.y..sink.x"].deliver(["text"])
    await made.destroy()


async def test_a_host_tells_when_it_waits_for_others() -> None:
    source, sink = Count(3, name="a"), Keep(name="sink")
    made = Pair([source, sink], edges_of([source, sink], [wire("a.y", "sink.x")]))
    async with asyncio.timeout(5):
        await made.init()
        stepping = asyncio.gather(*(host.step() for host in made.hosts))
        # one value was sent and received, the sink has made its step: nobody has to be told that the round is over
        await stepping
        # without a value, only who knows both hosts knows
        before = made.ears[1].quiet_times
        alone = asyncio.ensure_future(made.hosts[1].step())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert made.ears[1].quiet_times > before
        assert not alone.done()
        made.hosts[1].end_round()
        await alone
        await made.destroy()
    assert sink.got == [0]


async def test_a_channel_in_memory_shows_what_it_has_accepted() -> None:
    channel: Chan[int] = Chan(int, capacity=2)
    assert list(channel.accepted) == []
    await channel.send(1)
    await channel.send(2)
    assert list(channel.accepted) == [1, 2]
    assert await channel.recv() == 1
    channel.close()
    assert list(channel.accepted) == [2]


async def test_mistakes_with_edges() -> None:
    ears = Ears(Pair([], []))
    with pytest.raises(DataflowError, match="no outlet"):
        Host([Count(1, name="a")], [Edge("a.y..b.x", "a", "y", "b", "x")], listener=ears)
    with pytest.raises(DataflowError, match="no input 'z'"):
        Host([Keep(name="b")], [Edge("a.y..b.z", "a", "y", "b", "z")], listener=ears)
    with pytest.raises(DataflowError, match="two components"):
        Host([Keep(name="b"), Keep(name="b")], [], listener=ears)


@pytest.mark.parametrize("what", ["committed(1)", "at the end of the run"])
async def test_a_host_that_is_cancelled_names_the_component_that_had_not_ended(what: str) -> None:
    sink = Lingers(name="sink")
    host = Host([sink], [], listener=Ears(Pair([], [])))
    async with asyncio.timeout(30):
        await host.init(None)
        telling = asyncio.ensure_future(host.committed(1) if what == "committed(1)" else host.ended_well())
        await sink.is_told.wait()
        host.cancel()
        with pytest.raises(ProcessCancelled) as caught:
            await telling
        assert str(caught.value) == f"the process was cancelled while component 'sink', {what}, had not ended"
        with pytest.raises(ProcessCancelled):
            await host.ended_well()
        await host.destroy()
