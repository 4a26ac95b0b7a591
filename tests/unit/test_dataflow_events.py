"""Events: who hears of them, what handlers may do, how they stop a process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from stbass.dataflow import (
    AsyncioConnector,
    Component,
    ConnectorBuilder,
    Event,
    IOController,
    LocalProcess,
    Status,
    StopEvent,
)
from stbass.errors import ChannelTypeError, DataflowError, IOClosedError
from tests.support.dataflow import Count, Endless, Forever, Keep, local


class Heard(Event):
    data: int


class HeardLoud(Heard):
    """A kind of it."""


class Speaker(Component):
    """Tells every number, then closes."""

    io = IOController(output_events=[Heard])

    def __init__(self, n: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n = n
        self.told = 0

    async def step(self) -> None:
        self.io.queue_event(Heard(source=self.name, data=self.told))
        self.told += 1
        if self.told == self.n:
            await self.io.close()


class Listener(Component):
    """Keeps what it hears, and sends it on."""

    io = IOController(outputs=["y"], input_events=[Heard])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard: list[int] = []

    @Heard.handler
    async def on_heard(self, event: Heard) -> None:
        self.heard.append(event.data)
        self.y = event.data


async def test_every_component_that_listens_hears_every_event() -> None:
    # given events that are wired to nobody by hand
    one, two, sink = Listener(name="one"), Listener(name="two"), Keep(name="sink")
    process = local([Speaker(100, name="a"), Speaker(1, name="b"), one, two, sink], ("one.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    # then what a handler has set is sent, and everybody ends when nobody is left who tells anything
    assert sorted(one.heard) == sorted(two.heard) == sorted([*range(100), 0])
    assert sink.got == one.heard
    assert process.status is Status.COMPLETED


async def test_a_handler_fills_an_input() -> None:
    class Both(Component):
        io = IOController(inputs=["x", "level"], outputs=["y"], input_events=[Heard])
        x: int
        level: int

        @Heard.handler(populates_fields=["level"])
        def on_heard(self, event: Heard) -> None:
            self.level = event.data * 10

        async def step(self) -> None:
            self.y = (self.x, self.level)

    sink = Keep(name="sink")
    process = local(
        [Speaker(3, name="a"), Count(50, name="x"), Both(name="both"), sink], ("x.y", "both.x"), ("both.y", "sink.x")
    )
    async with asyncio.timeout(5), process:
        await process.run()
    # then there is a step for each event, and the other input's producer does not run for ever
    assert sink.got == [(0, 0), (1, 10), (2, 20)]


async def test_a_component_without_inputs_steps_after_each_event() -> None:
    class Steps(Listener):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.steps = 0

        async def step(self) -> None:
            self.steps += 1
            assert len(self.heard) == self.steps

    one = Steps(name="one")
    process = local([Speaker(5, name="a"), one])
    async with asyncio.timeout(5), process:
        await process.run()
    assert (one.heard, one.steps) == ([0, 1, 2, 3, 4], 5)


async def test_a_handler_of_a_class_hears_of_its_subclasses() -> None:
    class Loud(Component):
        io = IOController(output_events=[HeardLoud])

        async def step(self) -> None:
            self.io.queue_event(HeardLoud(source=self.name, data=1))
            await self.io.close()

    one = Listener(name="one")
    process = local([Loud(name="a"), one])
    async with asyncio.timeout(5), process:
        await process.run()
    assert one.heard == [1]


async def test_events_to_oneself() -> None:
    class Countdown(Component):
        io = IOController(input_events=[Heard], output_events=[Heard], outputs=["y"])

        @Heard.handler
        async def on_heard(self, event: Heard) -> None:
            if event.source != self.name or event.data:
                # More than any connector has room for.
                for _ in range(100 if event.source != self.name else 0):
                    self.io.queue_event(Heard(source=self.name, data=0))
                self.y = event.data
            elif not event.data:
                self.y = 0

    sink = Keep(name="sink")
    process = local([Speaker(3, name="a"), Countdown(name="c"), sink], ("c.y", "sink.x"))
    async with asyncio.timeout(5), process:
        await process.run()
    assert len(sink.got) == 303


async def test_a_stop_event_ends_everything_after_its_step() -> None:
    class Stopper(Keep):
        async def step(self) -> None:
            await super().step()
            if self.x == 20:
                self.io.queue_event(StopEvent(source=self.name))

    endless, sink = Endless(name="a"), Stopper(name="sink")
    waiting = Keep(name="waiting")
    process = local([endless, sink, Endless(name="b"), waiting], ("a.y", "sink.x"), ("b.y", "waiting.x"))
    async with asyncio.timeout(5), process:
        await process.run()
        assert process.status is Status.STOPPED
        assert {one.status for one in process.components.values()} == {Status.STOPPED}
        with pytest.raises(DataflowError, match="stopped"):
            await process.run()
    assert sink.got == list(range(21))


async def test_a_stop_event_waits_for_steps_that_have_begun() -> None:
    class Slow(Forever):
        async def step(self) -> None:
            self.began.set()
            await go.wait()
            self.was_cancelled = True  # means here: it has come to its end

    class Stopper(Component):
        io = IOController()

        async def step(self) -> None:
            await slow.began.wait()
            self.io.queue_event(StopEvent(source=self.name))

    go = asyncio.Event()
    slow = Slow(name="slow")
    process = local([slow, Stopper(name="stopper"), Keep(name="sink")], ("slow.y", "sink.x"))
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        await slow.began.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not running.done()
        go.set()
        await running
        assert (process.status, slow.was_cancelled) == (Status.STOPPED, True)


async def test_an_event_told_outside_of_a_step() -> None:
    class Bell(Component):
        """Waits for values that never come, and tells of something that happens in between."""

        io = IOController(inputs=["x"], output_events=[Heard])

        async def init(self) -> None:
            asyncio.get_running_loop().call_later(0.01, self.ring)

        async def step(self) -> None:
            raise AssertionError("nothing comes")

        def ring(self) -> None:
            self.io.queue_event(Heard(source=self.name, data=7))

    class Hears(Listener):
        @Heard.handler
        async def on_heard(self, event: Heard) -> None:
            self.heard.append(event.data)
            self.io.queue_event(StopEvent(source=self.name))

    one, forever = Hears(name="one"), Forever(name="forever")
    process = local([forever, Bell(name="bell"), one, Keep(name="sink")], ("forever.y", "bell.x"), ("one.y", "sink.x"))
    async with asyncio.timeout(5), process:
        running = asyncio.ensure_future(process.run())
        while not one.heard:  # noqa: ASYNC110 - each turn lets the others run
            await asyncio.sleep(0)
        process.cancel()
        await asyncio.wait((running,))
        assert running.exception() is not None
    assert one.heard == [7]


async def test_a_failing_handler_fails_the_process() -> None:
    class Bad(Listener):
        @Heard.handler
        async def on_heard(self, event: Heard) -> None:
            raise ValueError("cannot hear")

    process = local([Speaker(3, name="a"), Bad(name="bad"), Keep(name="sink")], ("bad.y", "sink.x"))
    async with asyncio.timeout(5), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    (error,) = caught.value.exceptions
    assert str(error) == "cannot hear"
    assert "'bad'" in error.__notes__[0]


# Events themselves -------------------------------------------------------------------------------


class Reading(BaseModel):
    value: float


class Measured(Event):
    data: Reading


def test_what_an_event_is() -> None:
    event = Heard(source="a", data=1)
    assert (Heard.type, HeardLoud.type, Event.type, StopEvent.type) == ("heard", "heard_loud", "event", "stop_event")
    assert event.dict() == {
        "type": "heard",
        "source": "a",
        "data": 1,
        "id": event.id,
        "timestamp": event.timestamp,
    }
    assert event.id != Heard(source="a", data=1).id


def test_data_is_checked() -> None:
    assert Measured(source="a", data={"value": 1.5}).data == Reading(value=1.5)
    with pytest.raises(ChannelTypeError, match=r"Heard\.data"):
        Heard(source="a", data="loud")
    with pytest.raises(TypeError, match="component"):
        Heard(source=3, data=1)  # type: ignore[arg-type]


async def test_mistakes_with_events() -> None:
    speaker = Speaker(1, name="a")
    with pytest.raises(TypeError, match="output_events"):
        speaker.io.queue_event(Measured(source="a", data={"value": 1}))
    with pytest.raises(TypeError, match="takes an event"):
        speaker.io.queue_event("heard")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list of names"):
        Heard.handler(populates_fields="x")
    with pytest.raises(TypeError, match="goes on a method"):
        Heard.handler(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="classes of events"):
        IOController(input_events=[int])  # type: ignore[list-item]
    await speaker.io.close()
    with pytest.raises(IOClosedError, match="before"):
        speaker.io.queue_event(Heard(source="a", data=1))
    with pytest.raises(DataflowError, match="of its class"):
        await Speaker.io.close()


# As other programs use them ----------------------------------------------------------------------


class Probed(Event):
    """A number of one of two probes."""

    data: int


class Probe(Component):
    """Tells two numbers as events."""

    io = IOController(output_events=[Probed])

    def __init__(self, start: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.left = [start, start + 1]

    async def step(self) -> None:
        """Tell one."""
        self.io.queue_event(Probed(source=self.name, data=self.left.pop(0)))
        if not self.left:
            await self.io.close()


class Pair(Component):
    """Takes a row of the numbers of both probes."""

    io = IOController(inputs=["a", "b"], input_events=[Probed])
    exports = ["rows"]  # noqa: RUF012
    a: int
    b: int

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows: list[tuple[int, int]] = []

    @Probed.handler(populates_fields=["a", "b"])
    async def on_reading(self, event: Probed) -> None:
        """Set only the one that it is about."""
        setattr(self, event.source, event.data)

    async def step(self) -> None:
        """Keep the row."""
        self.rows.append((self.a, self.b))


async def test_only_the_fields_that_a_handler_did_set_hold_a_new_value() -> None:
    pair = Pair(name="pair")
    async with asyncio.timeout(30), LocalProcess([Probe(0, name="a"), Probe(10, name="b"), pair], []) as process:
        await process.run()
    assert pair.rows == [(0, 10), (1, 11)]


class Doubled(Event):
    """Twice the number."""

    data: int


class Returns(Component):
    """Answers an event with an event, sync or async."""

    io = IOController(input_events=[Probed], output_events=[Doubled])

    @Probed.handler
    def on_reading(self, event: Probed) -> Doubled:
        """Return it."""
        return Doubled(source=self.name, data=2 * event.data)


class Hears(Component):
    """Keeps the numbers of events."""

    io = IOController(input_events=[Doubled])
    exports = ["got"]  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.got: list[int] = []

    @Doubled.handler
    async def on_doubled(self, event: Doubled) -> None:
        """Keep it."""
        self.got.append(event.data)


class ReturnsTwo(Component):
    """Answers an event with two."""

    io = IOController(input_events=[Probed], output_events=[Doubled])

    @Probed.handler
    async def on_reading(self, event: Probed) -> list[Doubled]:
        """Return them."""
        return [Doubled(source=self.name, data=2 * event.data), Doubled(source=self.name, data=-2 * event.data)]


@pytest.mark.parametrize(("kind", "heard"), [(Returns, [6, 8]), (ReturnsTwo, [6, -6, 8, -8])])
async def test_an_event_that_a_handler_returns_is_sent(kind: type[Component], heard: list[int]) -> None:
    hears = Hears(name="hears")
    components = [Probe(3, name="probe"), kind(name="returns"), hears]
    connectors = ConnectorBuilder(connector_cls=AsyncioConnector).build_event_connectors(components)
    async with asyncio.timeout(30), LocalProcess(components, connectors) as process:
        await process.run()
    assert hears.got == heard
