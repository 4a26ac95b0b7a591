"""Processes by reference, compositions as trees, channels as their address; and what a worker refuses."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from stbass._channels.memory import MemoryTransport
from stbass._engine.composition import Composition
from stbass._process.context import Composable
from stbass._values.endpoint import Placement
from stbass._values.policy import FailurePolicy
from stbass.channel import Chan
from stbass.errors import NotTransportable, ProcessRefused, WireError
from stbass.par import PAR
from stbass.process import FunctionProcess, Process, ProcessContext
from stbass.result import ProcessResult
from stbass.seq import SEQ
from stbass.wire import (
    MAX_DEPTH,
    Admission,
    Decoder,
    Opaque,
    dump_result,
    dumps,
    load_result,
    loads,
    loads_process,
)
from tests.support import wire_samples as samples
from tests.support.shelf import Shelf
from tests.support.wire_samples import Bare, Point, Researcher, Strict, given_name, hello, in_thread

HERE = "tests.support.wire_samples"


def arrived(process: Composable, **options: Any) -> Any:
    return loads_process(dumps(process), allowed=None, **options)


def placed_by_message(process: Composable, placement: Placement | None) -> Any:
    """The process as it arrives in a message that says where it belongs."""
    form = json.loads(dumps(process))
    form["p"] = json.loads(dumps(placement))
    return loads_process(json.dumps(form), allowed=None)


def function_of(process: Any) -> Any:
    return process.function


async def outcome(process: Composable) -> Any:
    return (await process.execute(ProcessContext(process.name))).value


# By reference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [hello, given_name, in_thread], ids=lambda process: process.name)
def test_a_function_travels_as_its_reference(process: FunctionProcess) -> None:
    data = dumps(process)

    assert json.loads(data) == {"~": "process", "r": f"{HERE}:{process.__qualname__}"}
    found = loads_process(data, allowed=None)
    assert type(found) is FunctionProcess
    assert found.function is function_of(process)
    assert (found.name, found.placement, found.is_optional) == (process.name, None, False)


async def test_what_arrives_runs() -> None:
    assert await outcome(arrived(hello)) == "hello"
    assert await outcome(arrived(in_thread)) == "thread"
    assert await outcome(arrived(Researcher("birds", depth=2))) == ("birds", 2)
    assert await outcome(arrived(Bare())) is None


def test_a_subclass_travels_with_the_arguments_its_constructor_was_given() -> None:
    process = Researcher(("a", {1}), depth=3, helpers=[hello, Researcher("inner")])

    found = arrived(process)

    assert type(found) is Researcher
    assert (found.topic, found.depth) == (("a", {1}), 3)
    assert found.helpers[0].function is function_of(hello)
    assert found.helpers[1].topic == "inner"


def test_name_optional_mark_and_placement_travel() -> None:
    placement = Placement(model="opus", endpoint="q", config={"t": (1,)})
    for process in (hello, Researcher("x"), PAR(hello)):
        changed = placed_by_message(process.with_name("other").optional(), placement)

        found = arrived(changed)

        assert (found.name, found.is_optional, found.placement) == ("other", True, placement)
        assert type(found) is type(process)


def test_a_placement_taken_away_stays_away() -> None:
    placed = placed_by_message(samples.placed.with_name("elsewhere"), None)

    assert arrived(samples.placed).placement == Placement(model="opus")
    assert b'"p"' not in dumps(samples.placed)
    assert arrived(placed).placement is None


def test_a_process_inside_a_value_keeps_its_place() -> None:
    found = Decoder(admission=Admission(None)).loads(dumps({"p": [hello, (Bare(),)], "n": 1}, processes=True))

    assert found["p"][0].function is function_of(hello)
    assert type(found["p"][1][0]) is Bare
    assert found["n"] == 1


def test_what_is_made_is_a_copy_that_leaves_the_original_alone() -> None:
    arrived(hello.with_name("x")).optional()

    assert (hello.name, hello.is_optional) == ("hello", False)
    assert arrived(hello) is not hello


# Compositions ------------------------------------------------------------------------------------


async def test_a_composition_travels_as_the_tree_of_its_parts() -> None:
    tree = SEQ(
        Researcher("a"),
        PAR(hello, in_thread.optional(), on_failure=FailurePolicy.COLLECT, deadline=5.0).with_name("both"),
        on_failure=FailurePolicy.retry(3, base_delay=0.5),
    )

    found = arrived(tree)

    assert type(found) is SEQ
    assert dumps(found) == dumps(tree)
    assert await outcome(found) == await outcome(tree)


def test_every_kind_of_composition_comes_back_as_itself() -> None:
    from stbass.placement import PLACED_PAR
    from stbass.replicator import PAR_FOR, SEQ_FOR

    trees: list[Composition] = [
        SEQ(),
        PAR(hello, limit=2),
        PAR_FOR(3, lambda index, ctx: Researcher(index)),
        SEQ_FOR(2, lambda index, ctx: hello),
        PLACED_PAR((hello, Placement(endpoint="q")), Bare(), deadline=3),
    ]
    for tree in trees:
        found = arrived(tree)

        assert type(found) is type(tree)
        assert dumps(found) == dumps(tree)


def test_a_subclass_of_a_composition_is_refused_with_what_to_do() -> None:
    class MyPar(PAR):
        pass

    with pytest.raises(NotTransportable, match="subclass of a composition; use PAR itself"):
        dumps(MyPar(hello))


def test_the_place_of_an_untransportable_part_is_named() -> None:
    with pytest.raises(NotTransportable) as caught:
        dumps(SEQ(hello, PAR(hello, Researcher([1, object()]))), what="process")

    assert caught.value.path == "process.processes[1].processes[1].topic[1]"
    with pytest.raises(NotTransportable) as caught:
        dumps(Researcher("x", helpers={"k": object()}))
    assert caught.value.path == 'value.helpers["k"]'


def test_a_tree_may_be_as_deep_as_a_message() -> None:
    def wrapped(depth: int) -> Composable:
        tree: Composable = hello
        for _ in range(depth):
            tree = SEQ(tree)
        return tree

    deep = wrapped(MAX_DEPTH // 4)
    assert dumps(arrived(deep)) == dumps(deep)
    with pytest.raises(NotTransportable, match="nested more than"):
        dumps(wrapped(MAX_DEPTH // 2))


# Not transportable -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (samples.make_local, "defined in a function"),
        (lambda: samples.from_lambda, "is a lambda"),
        (lambda: samples.from_callable, "object that is called"),
        (lambda: samples.first_of_two, "something else"),
    ],
    ids=["local", "lambda", "callable", "redefined"],
)
def test_a_process_that_a_worker_could_not_find_is_refused_before_it_is_sent(make: Any, words: str) -> None:
    process = make()

    for value in (process, [process], PAR(process), process.with_name("other")):
        with pytest.raises(NotTransportable, match=words) as caught:
            dumps(value, processes=True)
        assert any(what in str(caught.value) for what in ("include", "decorate a function of its own"))


def test_the_second_of_two_processes_of_one_name_travels() -> None:
    assert function_of(arrived(samples.second_of_two)) is function_of(samples.second_of_two)


def test_a_local_subclass_is_refused() -> None:
    class Local(Process):
        async def run(self, ctx: ProcessContext) -> None:
            return None

    with pytest.raises(NotTransportable, match=r"move it to the top level of a module.*STBASS_INCLUDE"):
        dumps(Local())


# Refused -----------------------------------------------------------------------------------------


def test_a_process_that_is_not_known_is_refused_by_name_with_what_to_add() -> None:
    before = set(sys.modules)

    with pytest.raises(ProcessRefused) as caught:
        loads_process(b'{"~":"process","r":"antigravity:fly"}', allowed=None, queue="q", worker="w@host")

    error = caught.value
    assert (error.reference, error.queue, error.worker) == ("antigravity:fly", "q", "w@host")
    assert str(error) == (
        "worker 'w@host' on queue 'q' does not know the process 'antigravity:fly';"
        " add its module, 'antigravity', to include (STBASS_INCLUDE)"
    )
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "reference",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:eval",
        f"{HERE}:Spy",
        f"{HERE}:ran",
        f"{HERE}:make_local",
        "stbass.process:Process",
        "stbass.process:FunctionProcess",
        "",
        "\ud800:x",
    ],
)
def test_only_registered_processes_are_looked_at(reference: str) -> None:
    samples.ran.clear()

    with pytest.raises((ProcessRefused, WireError)):
        loads_process(json.dumps({"~": "process", "r": reference, "a": ["true"]}), allowed=None)

    assert samples.ran == []


def test_a_worker_decides_which_processes_it_runs() -> None:
    asked = []

    def allowed(reference: str) -> bool:
        asked.append(reference)
        return reference.endswith(":hello")

    data = dumps(PAR(hello, Researcher("x")))
    samples.ran.clear()
    with pytest.raises(ProcessRefused, match=r"was not told to run .*Researcher"):
        loads_process(data, allowed=allowed)

    assert asked == [f"{HERE}:hello", f"{HERE}:Researcher"]
    assert samples.ran == []
    assert loads_process(dumps(PAR(hello)), allowed=allowed).name == "PAR"


@pytest.mark.parametrize("process", [hello, Bare(), PAR(hello)], ids=repr)
def test_plain_values_bring_no_processes(process: Composable) -> None:
    data = dumps(process)
    samples.ran.clear()

    with pytest.raises(WireError, match="it brings a process where there may be none"):
        loads(data)


def test_a_process_or_channel_inside_a_value_is_refused_before_it_is_sent() -> None:
    for live in (hello, PAR(hello), Chan(int, name="c", transport=Shelf())):
        with pytest.raises(NotTransportable, match="cannot travel inside a value; give it to a process") as caught:
            dumps({"k": live})
        assert caught.value.path == 'value["k"]'
        with pytest.raises(NotTransportable):
            dump_result(ProcessResult.ok(live))
        found = load_result(dump_result(ProcessResult.fail(ValueError(live), checkpoint=[live])))
        assert isinstance(found.failure.checkpoint[0], Opaque)
        assert isinstance(found.failure.error.args[0], Opaque)


def test_what_is_not_a_process_is_refused() -> None:
    with pytest.raises(WireError, match="it is 5"):
        loads_process(b"5", allowed=None)


@pytest.mark.parametrize(
    ("number", "words"), [(-1, "ValueError: number must not be negative"), (666, "SystemExit: 3"), ("x", "TypeError")]
)
def test_a_constructor_that_raises_is_a_refusal_and_not_the_end_of_the_worker(number: Any, words: str) -> None:
    data = json.dumps({"~": "process", "r": f"{HERE}:Strict", "a": [number]})

    with pytest.raises(ProcessRefused, match=words) as caught:
        loads_process(data, allowed=None)

    assert caught.value.reference == f"{HERE}:Strict"
    assert arrived(Strict(5)) is not None


@pytest.mark.parametrize("given", [{"a": [1]}, {"k": {"name": "x"}}])
def test_arguments_that_a_function_does_not_take_here_are_refused(given: dict[str, Any]) -> None:
    # as from a producer that has another version of its module
    with pytest.raises(ProcessRefused, match="of its arguments: TypeError: hello"):
        loads_process(json.dumps({"~": "process", "r": f"{HERE}:hello", **given}), allowed=None)


@pytest.mark.parametrize(
    "form",
    [
        {"~": "process"},
        {"~": "process", "r": 5},
        {"~": "process", "r": f"{HERE}:hello", "a": {}},
        {"~": "process", "r": f"{HERE}:hello", "n": 5},
        {"~": "process", "r": f"{HERE}:hello", "n": ""},
        {"~": "process", "r": f"{HERE}:hello", "p": "anywhere"},
        {"~": "process", "r": f"{HERE}:hello", "p": {"~": "placement", "v": [1, 2, 3]}},
        {"~": "process", "r": f"{HERE}:hello", "ch": ["a"]},
        {"~": "process", "r": f"{HERE}:hello", "ch": ["a", 1]},
        {"~": "process", "r": f"{HERE}:hello", "ch": {"a": 1}},
        {"~": "composition", "r": "NONE", "v": {}},
        {"~": "composition", "r": "PAR", "v": {}},
        {"~": "composition", "r": "PAR", "v": {"processes": [1], "on_failure": 1, "deadline": 1, "limit": 1}},
        {"~": "composition", "r": "PAR", "v": []},
    ],
    ids=str,
)
def test_a_malformed_process_is_refused(form: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        loads_process(json.dumps(form), allowed=None)


# Channels ----------------------------------------------------------------------------------------


async def test_bound_channels_travel_and_are_the_same_channel_at_both_ends() -> None:
    # Given two processes in one tree, joined by a channel that others can find
    shelf = Shelf()
    channel: Chan[Any] = Chan(int, name="numbers", transport=shelf)
    sender, receiver = samples.sender.with_channels(out=channel), samples.receiver.with_channels(**{"in": channel})
    tree = PAR(sender, receiver)

    # When they arrive
    found = arrived(tree, transport=shelf)

    # Then both hold one end of the same channel, and a value goes through it
    pair = Decoder(admission=Admission(None), transport=shelf).loads(dumps([sender, receiver], processes=True))
    ends = [next(iter(process.bound_channels.values())) for process in pair]
    assert ends[0] is ends[1]
    assert (ends[0].name, ends[0].type_spec, ends[0].capacity) == ("numbers", int, 0)
    async with asyncio.timeout(5):
        result = await found.run()
    assert [one.value for one in result.results] == [None, 17]


def test_a_channel_inside_a_value_travels() -> None:
    shelf = Shelf()
    channel: Chan[Any] = Chan(list[int], name="c", capacity=3, transport=shelf)

    found = Decoder(transport=shelf).loads(dumps({"reply": [channel, channel]}, processes=True))

    first, second = found["reply"]
    assert first is second
    assert isinstance(first, Chan)
    assert (first.name, first.capacity, first.type_spec) == ("c", 3, list[int])


def test_a_channel_in_memory_is_refused_with_its_place_and_what_to_do() -> None:
    channel: Chan[Any] = Chan(int, name="numbers")

    with pytest.raises(NotTransportable, match="'numbers'") as caught:
        dumps([{"reply": channel}], processes=True)
    assert caught.value.path == 'value[0]["reply"]'
    assert "transport" in str(caught.value)
    with pytest.raises(NotTransportable) as caught:
        dumps(PAR(hello, hello.with_channels(out=channel)), what="process")
    assert caught.value.path == "process.processes[1].bound_channels['out']"


def test_a_channel_where_there_may_be_none_is_refused() -> None:
    data = dumps([Chan(int, name="c", transport=Shelf())], processes=True)

    with pytest.raises(WireError, match="it brings a channel where there may be none"):
        loads(data)
    with pytest.raises(WireError, match="shelf"):
        Decoder(transport=MemoryTransport()).loads(data)
    with pytest.raises(WireError, match="no such channel"):
        Decoder(transport=Shelf()).loads(data)


@pytest.mark.parametrize(
    "change",
    [{"transport": "redis"}, {"type": {"x": 1}}, {"capacity": "3"}, {"capacity": -1}, {"name": 5}, {"link": 5}],
)
def test_a_malformed_channel_is_refused(change: dict[str, Any]) -> None:
    shelf = Shelf()
    form = json.loads(dumps(Chan(int, name="c", transport=shelf)))
    form["v"].update(change)

    with pytest.raises(WireError):
        Decoder(transport=shelf).loads(json.dumps(form))


def test_a_value_that_no_process_is_made_of_is_unaffected() -> None:
    assert Decoder(admission=Admission(None), transport=Shelf()).loads(dumps((Point(1), "~"))) == (Point(1), "~")
