"""Networks made at random: broken off anywhere and gone on with, they give what they give straight through."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stbass.dataflow import Component, IOController, LocalProcess
from stbass.dataflow.state import DictStateBackend
from tests.support.dataflow import Count, Keep, Lasting, checkpoints_of, wire


class Sum(Component):
    """What came, and the sum of all that came before it: remembers, so nothing may come twice or be missed."""

    io = IOController(inputs=["a"], outputs=["y", "z"])
    a: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sum = 0

    async def step(self) -> None:
        self.z = -self.a
        self.sum = (3 * self.sum + self.a) % 10007
        self.y = self.sum


class Both(Component):
    """Both inputs, as one number."""

    io = IOController(inputs=["a", "b"], outputs=["y", "z"])
    a: int
    b: int

    async def step(self) -> None:
        self.y = (7 * self.a + self.b) % 10007
        await asyncio.sleep(0)
        self.z = self.a


@dataclass(frozen=True)
class Node:
    """A component of the network: what feeds each of its inputs, by number of an output made before; and a loop."""

    feeds: tuple[int, ...]
    delay: int
    """How many values its second input begins with. Above 0, what comes there is its own output, round a loop."""
    through: bool
    """Whether there is another component on that loop."""


@dataclass(frozen=True)
class Network:
    """Some sources, and components that are each fed by what comes before them."""

    sources: tuple[int, ...]
    nodes: tuple[Node, ...]
    maxsize: int

    def parts(self) -> tuple[list[Component], list[tuple[str, str]]]:
        components: list[Component] = [Count(n, name=f"source{i}") for i, n in enumerate(self.sources)]
        outputs = [f"{one.name}.y" for one in components]
        wires: list[tuple[str, str]] = []
        for i, node in enumerate(self.nodes):
            name = f"node{i}"
            froms = [outputs[number % len(outputs)] for number in node.feeds]
            if node.delay:
                components.append(Both(name=name, initial_values={"b": range(1, node.delay + 1)}))
                wires.append((froms[0], f"{name}.a"))
                if node.through:
                    components.append(Sum(name=f"loop{i}"))
                    wires += [(f"{name}.y", f"loop{i}.a"), (f"loop{i}.y", f"{name}.b")]
                else:
                    wires.append((f"{name}.y", f"{name}.b"))
            else:
                components.append(Sum(name=name) if len(froms) == 1 else Both(name=name))
                wires += [(one, f"{name}.{field}") for one, field in zip(froms, "ab", strict=False)]
            outputs += [f"{name}.y", f"{name}.z"]
        for i, output in enumerate(outputs):
            components.append(Keep(name=f"sink{i}"))
            wires.append((output, f"sink{i}.x"))
        return components, wires

    def process(self, state: DictStateBackend | None) -> LocalProcess:
        components, wires = self.parts()
        connectors = [wire(*one, maxsize=self.maxsize) for one in wires]
        return LocalProcess(components, connectors, state=state, checkpoint_every=None)


networks = st.builds(
    Network,
    sources=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    nodes=st.lists(
        st.builds(
            Node,
            feeds=st.lists(st.integers(0, 99), min_size=1, max_size=2).map(tuple),
            delay=st.sampled_from([0, 0, 1, 3]),
            through=st.booleans(),
        ),
        max_size=5,
    ).map(tuple),
    maxsize=st.integers(1, 4),
)

Life = tuple[int, int, bool, int]

lives = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 40), st.booleans(), st.integers(0, 3)), min_size=1, max_size=4
)
"""Of each run that dies: steps, then turns of the event loop in which it runs, whether there is a checkpoint then, and
for how many turns it still lives."""


def got(process: LocalProcess) -> dict[str, list[Any]]:
    return {name: one.got for name, one in process.components.items() if isinstance(one, Keep)}


async def straight(network: Network) -> dict[str, list[Any]]:
    async with network.process(None) as process:
        await process.run()
        return got(process)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def broken_off(network: Network, lives: list[Life]) -> dict[str, list[Any]]:
    state = Lasting("Job_abcdefgh")
    dead: list[asyncio.Future[None]] = []
    try:
        for steps, running_turns, saves, more_turns in lives:
            process = network.process(state)
            await process.init()
            for _ in range(steps):
                await process.step()
                if process.status.is_terminal:
                    return got(process)
            if saves and not running_turns:
                await checkpoints_of(process).take()
            if running_turns:
                running = asyncio.ensure_future(process.run())
                dead.append(running)
                await turns(running_turns)
                if running.done():
                    await running
                    return got(process)
                if saves:
                    taking = asyncio.ensure_future(checkpoints_of(process).take())
                    dead.append(taking)
                    await asyncio.wait((taking, running), return_when=asyncio.FIRST_COMPLETED)
                await turns(more_turns)
                if running.done():
                    await running
                    return got(process)
                # It dies here: what it does to the store from now on, as it is not destroyed, the next does not see.
                state = state.after_death()
                running.cancel()
                await asyncio.wait((running,))
            else:
                state = state.after_death()
        process = network.process(state)
        async with process:
            await process.run()
            return got(process)
    finally:
        for one in dead:
            one.cancel()
        await asyncio.gather(*dead, return_exceptions=True)


@settings(max_examples=100, deadline=None)
@given(network=networks, lives=lives)
def test_broken_off_anywhere_a_network_gives_the_same(
    network: Network, lives: list[tuple[int, int, bool, int]]
) -> None:
    async def both() -> None:
        async with asyncio.timeout(10):
            assert await broken_off(network, lives) == await straight(network)

    asyncio.run(both())


@settings(max_examples=50, deadline=None)
@given(network=networks)
def test_step_by_step_a_network_gives_the_same(network: Network) -> None:
    async def both() -> None:
        async with asyncio.timeout(10):
            async with network.process(None) as process:
                while not process.status.is_terminal:
                    await process.step()
                assert got(process) == await straight(network)

    asyncio.run(both())
