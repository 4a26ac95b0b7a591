"""Where processes run: placements, backends, registries, limits."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from stbass import (
    PAR,
    PAR_FOR,
    PLACED_PAR,
    SEQ,
    BackendRegistry,
    ExecutionBackend,
    FailurePolicy,
    LocalBackend,
    Placement,
    Process,
    ProcessResult,
    tasklist,
    workflow,
)
from stbass._engine.backend import GroupPart
from stbass._engine.limiter import Limiter
from stbass._process.context import ProcessContext, frame_of
from stbass.errors import (
    BackendUnavailableError,
    ConfigurationError,
    DeadlineExceeded,
    NotTransportable,
    UnknownEndpointError,
)
from stbass.observe import subscribe
from stbass.placement import backend_class, default_registry
from stbass.wire import dumps, loads_process
from tests.support.compose import Gate, boom, echo, forever, give, placed

HERE = Placement(endpoint="here")
COLLECT = FailurePolicy.COLLECT


class Noting(LocalBackend):
    """A backend that notes what it is asked."""

    def __init__(self, limit: int | None = None, handle: Any = None) -> None:
        super().__init__(limit, name="noting")
        self.handle = handle
        self.ran: list[str] = []
        self.groups: list[tuple[str, list[str]]] = []
        self.group_of: dict[str, str | None] = {}

    async def open_group(self, group_id: str, members: Sequence[tuple[Any, ProcessContext]]) -> Any:
        self.groups.append((group_id, [ctx.process_name for _, ctx in members]))
        return self.handle

    async def execute(self, process: Any, ctx: ProcessContext) -> ProcessResult:
        self.ran.append(ctx.process_name)
        self.group_of[ctx.process_name] = frame_of(ctx).group
        return await super().execute(process, ctx)


def registry_with(**backends: ExecutionBackend) -> BackendRegistry:
    registry = BackendRegistry()
    for name, backend in backends.items():
        registry.register(name, backend)
    return registry


_of_others: list[Limiter] = []
"""Limiters that were busy before these tests: those of other modules have left them, with threads that block, say."""


def busy_limiters() -> list[Limiter]:
    """The limiters of all backends on which a slot is taken, or waited for, since these tests began."""
    made = [one for one in gc.get_objects() if issubclass(type(one), Limiter) and (one.inside or one.waiting)]
    return [one for one in made if not any(one is other for other in _of_others)]


@pytest.fixture(autouse=True, scope="module")
def _without_those_of_others() -> None:
    _of_others.extend(busy_limiters())


# Placement ---------------------------------------------------------------------------------------


def test_a_placement_is_hashable_by_content() -> None:
    one, other = (Placement("opus", "anthropic", {"a": [1, {"b": 2}]}) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Placement("opus", "anthropic")
    with pytest.raises(AttributeError):
        one.model = "haiku"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("placement", "summary"),
    [
        (Placement("opus", "anthropic"), "opus @ anthropic"),
        (Placement(model="opus"), "opus"),
        (Placement(endpoint="local:8080", config={"t": 0.7}), "@ local:8080 (t)"),
        (Placement(), "anywhere"),
    ],
)
def test_summary_joins_what_is_set(placement: Placement, summary: str) -> None:
    assert placement.summary == summary


@pytest.mark.parametrize("arguments", [{"model": 3}, {"endpoint": b"x"}, {"config": [1]}])
def test_a_wrong_placement_is_refused(arguments: Any) -> None:
    with pytest.raises(TypeError, match=next(iter(arguments))):
        Placement(**arguments)


# BackendRegistry ---------------------------------------------------------------------------------


def test_lookup_by_endpoint_then_model_then_default() -> None:
    by_endpoint, by_model = LocalBackend(), LocalBackend()
    registry = registry_with(anthropic=by_endpoint, opus=by_model)
    assert registry.get(Placement("opus", "anthropic")) is by_endpoint
    assert registry.get(Placement("opus", "elsewhere")) is by_model
    assert registry.get(Placement("haiku", "elsewhere")) is registry.default
    assert isinstance(registry.default, LocalBackend)
    assert registry.names == ["anthropic", "opus"]


def test_patterns_lose_to_names_and_longer_ones_win() -> None:
    broad, narrow, exact = LocalBackend(), LocalBackend(), LocalBackend()
    registry = registry_with(**{"local:*": broad, "local:80*": narrow, "local:8080": exact})
    assert registry.get(Placement(endpoint="local:9")) is broad
    assert registry.get(Placement(endpoint="local:8000")) is narrow
    assert registry.get(Placement(endpoint="local:8080")) is exact
    assert registry.get(Placement(endpoint="remote")) is registry.default


def test_registering_again_replaces_and_unregistering_forgets() -> None:
    first, second = LocalBackend(), LocalBackend()
    registry = registry_with(a=first)
    registry.register("a", second)
    assert registry.get(Placement(endpoint="a")) is second
    assert registry.backends == [second]
    registry.unregister("a")
    assert registry.get(Placement(endpoint="a")) is registry.default
    with pytest.raises(KeyError, match="'a'"):
        registry.unregister("a")


@pytest.mark.parametrize(
    ("wanted", "registered", "nearest"),
    [
        ("antropic", ["openai", "anthropic"], "anthropic"),
        ("Anthropic", ["anthropic"], "anthropic"),
        ("anthropic ", ["anthropic"], "anthropic"),
        ("lokal:8080", ["local:*"], "local:*"),
        ("gpu-7", ["gpu?"], "gpu?"),
        ("anthropic" * 100_000, ["anthropic"], None),
        ("groq", ["anthropic", "local:*"], None),
        ("", ["anthropic"], None),
    ],
)
def test_an_endpoint_that_nothing_matches_is_told_once(
    caplog: pytest.LogCaptureFixture, wanted: str, registered: list[str], nearest: str | None
) -> None:
    registry = registry_with(**dict.fromkeys(registered, LocalBackend()))
    for _ in range(3):
        assert registry.get(Placement(endpoint=wanted)) is registry.default
    [text] = [record.getMessage() for record in caplog.records]
    assert f"'{wanted[:20]}" in text
    assert len(text) < 1000
    assert (f"did you mean {nearest!r}?" in text) if nearest else ("did you mean" not in text)
    assert f"there are: {', '.join(registered)}" in text
    assert "'local', here; BackendRegistry(strict=True)" in text


def test_what_has_a_backend_or_no_endpoint_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    BackendRegistry().get(Placement(endpoint="nothing is registered"))
    registry = registry_with(anthropic=LocalBackend(), opus=LocalBackend(), **{"local:*": LocalBackend()})
    for placement in (Placement("opus", "antropic"), Placement("haiku"), Placement(), Placement(endpoint="local:1")):
        registry.get(placement)
    assert not caplog.records


def test_an_endpoint_shows_no_password(caplog: pytest.LogCaptureFixture) -> None:
    registry = registry_with(anthropic=LocalBackend())
    registry.get(Placement(endpoint="https://me:geheim@host/v1?api_key=geheim"))
    assert "geheim" not in caplog.text
    assert "host" in caplog.text


def strict_registry(**backends: ExecutionBackend) -> BackendRegistry:
    registry = BackendRegistry(strict=True)
    for name, backend in backends.items():
        registry.register(name, backend)
    return registry


def test_a_strict_registry_refuses_what_it_does_not_know() -> None:
    registry = strict_registry(anthropic=LocalBackend(), opus=LocalBackend())
    with pytest.raises(UnknownEndpointError, match=r"'antropic' \(did you mean 'anthropic'\?\)") as caught:
        registry.get(Placement(endpoint="antropic"))
    assert caught.value.endpoint == "antropic"
    assert registry.get(Placement("opus", "antropic")).name == "local"
    assert registry.get(Placement("haiku")) is registry.get(Placement()) is registry.default
    with pytest.raises(UnknownEndpointError, match="there are: none"):
        BackendRegistry(strict=True).get(Placement(endpoint="anthropic"))
    with pytest.raises(TypeError, match="strict"):
        BackendRegistry(strict="anthropic")  # type: ignore[arg-type]


THERE, MISTYPED = Placement(endpoint="there"), Placement(endpoint="tehre")
LOST = placed(boom, MISTYPED)


class Node(workflow.BaseProcess):
    def __init__(self, name: str) -> None:
        super().__init__(workflow.ProcessConfig(process_id=name))

    async def execute(self, input_data: Any) -> Any:
        raise AssertionError("nothing may start")


async def placed_workflow(registry: BackendRegistry, first: Any) -> Any:
    flow = workflow.Workflow(registry=registry)
    Node("second").register_to(flow, [Node("first").register_to(flow)], placement=MISTYPED)
    return await flow.execute()


@pytest.mark.parametrize(
    "start",
    [
        lambda registry, first: PLACED_PAR((first, THERE), (boom, MISTYPED), registry=registry).run(),
        lambda registry, first: PLACED_PAR((first, THERE), LOST, registry=registry).run(),
        lambda registry, first: PLACED_PAR((SEQ(first, PAR(LOST)), THERE), registry=registry).run(),
        lambda registry, first: PAR(first, LOST, registry=registry).run(),
        lambda registry, first: SEQ(first, LOST, registry=registry).run(),
        lambda registry, first: SEQ(first, PLACED_PAR((boom, MISTYPED)), registry=registry).run(),
        lambda registry, first: PAR(first, SEQ(give(1), PAR(LOST), registry=registry)).run(),
        lambda registry, first: SEQ(first, PAR_FOR(2, LOST), registry=registry).run(),
        lambda registry, first: PAR_FOR(2, lambda n, ctx: (first, LOST)[n], registry=registry).run(),
        lambda registry, first: PLACED_PAR(
            (first, THERE), (boom, MISTYPED), registry=registry, on_failure=FailurePolicy.retry(3), deadline=1
        ).run(),
        lambda registry, first: PLACED_PAR(
            (first, THERE), (boom, MISTYPED), registry=registry, on_failure=COLLECT
        ).run(),
        placed_workflow,
    ],
)
async def test_a_strict_registry_refuses_before_anything_starts(start: Any) -> None:
    there = Noting()
    registry = strict_registry(there=there)
    ran: list[int] = []

    @Process
    async def first(ctx: ProcessContext) -> None:
        ran.append(1)

    with pytest.raises(UnknownEndpointError, match=r"'tehre' \(did you mean 'there'\?\)"):
        await start(registry, first)
    assert not ran
    assert not there.ran


def test_a_task_list_with_a_strict_registry_starts_nothing() -> None:
    ran: list[int] = []
    tasks = tasklist.Process("list", registry=strict_registry(there=Noting()))
    tasks.add_task(ran.append, 1)
    tasks.add_task(print, "x", placement=MISTYPED)
    with pytest.raises(UnknownEndpointError, match="did you mean 'there'"):
        tasks.execute()
    assert not ran


async def test_a_process_that_places_with_a_strict_registry_fails_alone() -> None:
    @Process
    async def outer(ctx: ProcessContext) -> Any:
        return (await PLACED_PAR((give(1), MISTYPED)).run()).value

    result = await PAR(outer, give(2), registry=strict_registry(there=Noting()), on_failure=COLLECT).run()
    assert isinstance(result.failures[0].error, UnknownEndpointError)
    assert result.results[1].value == 2


@pytest.mark.parametrize(
    ("name", "backend", "error"),
    [
        ("", LocalBackend(), ValueError),
        (3, LocalBackend(), TypeError),
        ("a", 3, TypeError),
        ("a", LocalBackend, TypeError),
    ],
)
def test_wrong_registrations_are_refused(name: Any, backend: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        BackendRegistry().register(name, backend)


def test_kinds_of_backends_come_from_entry_points() -> None:
    assert backend_class("local") is LocalBackend
    with pytest.raises(ConfigurationError, match=r"unknown kind of backend 'nonsense'.*local"):
        backend_class("nonsense")


def test_a_backend_has_four_members() -> None:
    class Missing(ExecutionBackend):
        async def health_check(self) -> bool:
            return True

    with pytest.raises(TypeError, match="abstract"):
        Missing()  # type: ignore[abstract]
    assert LocalBackend().concurrency_limit == sys.maxsize
    assert (LocalBackend(3).concurrency_limit, LocalBackend().name) == (3, "local")


# PLACED_PAR --------------------------------------------------------------------------------------


async def test_each_process_runs_where_it_is_placed() -> None:
    here, there = Noting(), Noting()
    registry = registry_with(here=here, there=there)
    result = await PLACED_PAR(
        (give(1), HERE), (give(2).with_name("two"), Placement(endpoint="there")), give(3), registry=registry
    ).run()
    assert result.value == [1, 2, 3]
    assert (here.ran, there.ran) == (["give"], ["two"])


async def test_an_explicit_placement_wins_over_the_processs_own() -> None:
    here, there = Noting(), Noting()
    registry = registry_with(here=here, there=there)
    own = placed(give(1), Placement(endpoint="there"))
    await PLACED_PAR((own, HERE), own, registry=registry).run()
    assert (here.ran, there.ran) == (["give"], ["give"])


@pytest.mark.parametrize("kind", [PAR, SEQ])
async def test_every_composition_honours_a_processs_own_placement(kind: Any) -> None:
    here = Noting()
    await kind(placed(give(1), HERE), SEQ(PAR(placed(give(2), HERE))), registry=registry_with(here=here)).run()
    assert here.ran == ["give", "give"]


async def test_a_placed_composition_runs_there() -> None:
    here = Noting()
    result = await PLACED_PAR((SEQ(give(1), echo), HERE), registry=registry_with(here=here)).run()
    assert (result.value, here.ran) == ([1], ["SEQ"])


async def test_a_failure_says_where_it_was() -> None:
    opus = Placement("opus", "anthropic")
    result = await PLACED_PAR((boom, opus), registry=BackendRegistry()).run()
    assert result.failures[0].placement == opus
    assert result.failures[0].parent_process == "PLACED_PAR"


async def test_no_text_shows_a_value_of_config(caplog: pytest.LogCaptureFixture) -> None:
    keyed = Placement("opus", "antropic", {"seed": "8472", "deep": {"more": ["8472"]}})
    told: list[Any] = [keyed, keyed.summary, f"{keyed}"]
    with subscribe(told.append):
        result = await PLACED_PAR((boom, keyed), registry=registry_with(anthropic=LocalBackend())).run()
    told += [result, result.failures[0], result.failures[0].detailed, caplog.text, boom.with_name("x")]
    with pytest.raises(UnknownEndpointError) as caught:
        BackendRegistry(strict=True).get(keyed)
    with pytest.raises(TypeError) as wrong:
        PLACED_PAR((keyed, keyed))  # type: ignore[arg-type]
    texts = [*map(repr, told), *map(str, told), str(caught.value), str(wrong.value)]
    assert any("seed" in text for text in texts)
    assert "no backend is registered for the endpoint 'antropic'" in caplog.text
    assert not [text for text in texts if "8472" in text]


async def test_the_default_registry_is_for_all() -> None:
    here = Noting()
    default_registry().register("here", here)
    try:
        await PAR(placed(give(1), HERE)).run()
        inner = registry_with()
        await PAR(placed(give(1), HERE), registry=inner).run()
    finally:
        default_registry().unregister("here")
    assert here.ran == ["give"]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((give(1),), "must be a pair"),
        ((give(1), HERE, 3), "must be a pair"),
        ((give(1), "here"), r'write Placement\(endpoint="here"\)'),
        ((give(1), None), "must be a Placement"),
        ((HERE, give(1)), "wrong way round"),
        ((3, HERE), "process or a composition"),
        (3, "process or a composition"),
    ],
)
def test_what_is_no_pair_is_refused_when_made(pair: Any, message: str) -> None:
    with pytest.raises(TypeError, match=rf"argument 1 of PLACED_PAR.*{message}"):
        PLACED_PAR(give(0), pair)


async def test_the_same_process_twice() -> None:
    same = give(1)
    assert (await PLACED_PAR((same, HERE), (same, HERE), registry=BackendRegistry()).run()).value == [1, 1]


def test_it_travels_with_its_placements() -> None:
    original = PLACED_PAR((give(1), HERE), give(2), deadline=3.0, on_failure=COLLECT)
    again = loads_process(dumps(original), allowed=None)
    assert isinstance(again, PLACED_PAR)
    assert [placement for _, placement in again.pairs] == [HERE, None]
    assert dumps(again) == dumps(original)


# A backend that misbehaves -----------------------------------------------------------------------


class Broken(LocalBackend):
    """Fails in the way it is told."""

    def __init__(self, how: Any) -> None:
        super().__init__(name="broken")
        self.how = how

    async def execute(self, process: Any, ctx: ProcessContext) -> Any:
        return self.how(ctx)


async def test_a_backend_that_raises_fails_that_process_alone() -> None:
    def refuse(ctx: ProcessContext) -> None:
        raise ConnectionError("no route")

    registry = registry_with(here=Broken(refuse))
    result = await PLACED_PAR((give(1), HERE), give(2), on_failure=COLLECT, registry=registry).run()
    failure = result.failures[0]
    assert isinstance(failure.error, ConnectionError)
    assert (failure.process_name, failure.placement) == ("give", HERE)
    assert "no route" in failure.traceback_str
    assert result.value == [2]


async def test_a_backend_that_gives_back_nonsense_is_told() -> None:
    result = await PLACED_PAR((give(1), HERE), registry=registry_with(here=Broken(lambda ctx: 42))).run()
    assert "'broken' gave back 42" in str(result.failures[0].error)


@pytest.mark.parametrize("limit", [0, -3, True, "many"])
async def test_a_backend_with_a_nonsensical_limit_is_told(limit: Any) -> None:
    class Limited(LocalBackend):
        @property
        def concurrency_limit(self) -> Any:
            return limit

    result = await PLACED_PAR((give(1), HERE), registry=registry_with(here=Limited())).run()
    assert isinstance(result.failures[0].error, ConfigurationError)


# Groups ------------------------------------------------------------------------------------------


async def test_each_backend_hears_of_its_members_before_they_start() -> None:
    here, there = Noting(handle="group of here"), Noting()
    registry = registry_with(here=here, there=there)
    result = await PLACED_PAR(
        (give(1).with_name("a"), HERE),
        (give(2).with_name("b"), Placement(endpoint="there")),
        (give(3).with_name("c"), HERE),
        registry=registry,
    ).run()
    assert [names for _, names in here.groups + there.groups] == [["a", "c"], ["b"]]
    (group_id,) = {group for group, _ in here.groups + there.groups}
    assert (here.group_of, there.group_of) == ({"a": group_id, "c": group_id}, {"b": None})
    assert result.group == "group of here"


@pytest.mark.parametrize("kind", [PAR, SEQ])
async def test_a_refusal_comes_before_anything_starts(kind: Any) -> None:
    class Refusing(LocalBackend):
        def check(self, process: Any, ctx: ProcessContext) -> None:
            raise NotTransportable(f"{ctx.process_name} cannot go")

    ran: list[str] = []

    @Process
    async def notes(ctx: ProcessContext) -> None:
        ran.append("ran")

    with pytest.raises(NotTransportable, match="give cannot go"):
        await kind(notes, placed(give(1), HERE), registry=registry_with(here=Refusing())).run()
    assert ran == []


async def test_a_backend_that_does_not_answer_is_left_at_the_deadline() -> None:
    class Silent(LocalBackend):
        async def open_group(self, group_id: str, members: Any) -> Any:
            await asyncio.Event().wait()

    composition = PLACED_PAR((give(1), HERE), give(2), deadline=0.05, registry=registry_with(here=Silent()))
    result = await composition.run()
    assert not result.is_ok
    errors = [item.failure.error for item in result.results]
    assert len(errors) == 2
    for error in errors:
        assert isinstance(error, DeadlineExceeded)
        assert error.phase == "queued"
        assert "0.05 s" in str(error)


class Remembering(LocalBackend):
    """Knows some of each group."""

    def __init__(self, *places: int, members: tuple[str | None, ...] = ("'p0'", "'p1'")) -> None:
        super().__init__()
        self.places = places
        self.members = members

    async def find_group(self, group_id: str) -> GroupPart:
        if not self.places:
            raise LookupError("never heard of it")

        async def results(deadline: float | None) -> list[tuple[ProcessResult, bool]]:
            error = ProcessResult.fail(ValueError(f"{group_id} {deadline}"))
            return [(error if place == 1 else ProcessResult.ok(group_id), place == 1) for place in self.places]

        return GroupPart(self.members, self.places, results)


async def test_attach_asks_the_backends_that_know_groups() -> None:
    registry = registry_with(a=LocalBackend(), b=Remembering(0, 1))
    result = await PLACED_PAR.attach("g", registry=registry, deadline=3)
    assert (result.is_ok, result.value) == (True, ["g"])
    assert str(result.failures[0].error) == "g 3.0"
    assert (await PLACED_PAR.attach("h", backend=Remembering(1, 0))).value == ["h"]
    with pytest.raises(LookupError, match="there are: a"):
        await PLACED_PAR.attach("g", registry=registry_with(a=LocalBackend()))
    with pytest.raises(NotImplementedError, match="knows no groups"):
        await PLACED_PAR.attach("g", backend=LocalBackend())
    with pytest.raises(ValueError, match="deadline"):
        await PLACED_PAR.attach("g", registry=registry, deadline=-1)


async def test_attach_puts_together_what_several_backends_know() -> None:
    parts = {"a": Remembering(1), "b": Remembering(), "c": Remembering(0), "d": Remembering(0, 1)}
    result = await PLACED_PAR.attach("g", registry=registry_with(**parts))
    assert [one.is_ok for one in result.results] == [True, False]
    assert result.is_ok


async def test_attach_says_what_is_missing() -> None:
    class Away(Remembering):
        async def find_group(self, group_id: str) -> GroupPart:
            raise BackendUnavailableError("it is away")

    for registry in (registry_with(a=Remembering(0)), registry_with(a=Remembering(0), b=Remembering())):
        with pytest.raises(LookupError, match=r"2 processes, and 1 of them are not known here: 'p1'\."):
            await PLACED_PAR.attach("g", registry=registry)
    with pytest.raises(LookupError, match="never heard"):
        await PLACED_PAR.attach("g", registry=registry_with(a=Remembering()))
    for parts in ({"a": Remembering(0), "b": Away()}, {"a": Remembering(), "b": Away()}):
        with pytest.raises(BackendUnavailableError, match="away"):
            await PLACED_PAR.attach("g", registry=registry_with(**parts))
    # Whoever is away does not matter if nothing is missing.
    assert (await PLACED_PAR.attach("g", registry=registry_with(a=Away(), b=Remembering(0, 1)))).is_ok


async def test_attach_says_of_what_ran_in_the_program_that_it_is_gone() -> None:
    result = await PLACED_PAR.attach("g", backend=Remembering(0, members=("'p0'", None)))
    assert result.value == ["g"]
    assert "ran in the program that started the group" in str(result.failures[0].error)


async def test_backends_are_told_what_else_is_in_a_group() -> None:
    class Noting(Remembering):
        async def open_group(self, group_id: str, members: Sequence[tuple[Any, ProcessContext]]) -> Any:
            told.append((group_id, [frame_of(ctx).place for _, ctx in members]))

    told: list[tuple[str, Any]] = []
    both = registry_with(here=Noting(), there=Noting())
    there = Placement(endpoint="there")
    await PLACED_PAR((give(1), HERE), (give(2), there), give(3), registry=both).run()
    names = ["'give' on @ here (local)", "'give' on @ there (local)", None]
    assert told[0][0] == told[1][0]
    assert [one for _, one in told] == [[(0, names)], [(1, names)]]
    # One that has them all need not be told.
    await PLACED_PAR((give(1), HERE), (give(2), HERE), registry=both).run()
    assert told[2][1] == [None, None]


# The deadline of a backend -----------------------------------------------------------------------


class Answering(LocalBackend):
    """Answers for what it runs itself, some time after the deadline."""

    deadline_grace = 20.0

    async def execute(self, process: Any, ctx: ProcessContext) -> ProcessResult:
        assert ctx.remaining is not None
        await asyncio.sleep(ctx.remaining + 0.05)
        return ProcessResult.fail(DeadlineExceeded("its own words", phase="queued", worker="w"), process_name="x")


async def test_a_backends_own_answer_wins_within_its_grace() -> None:
    began = time.monotonic()
    result = await PLACED_PAR((give(1), HERE), forever, deadline=0.1, registry=registry_with(here=Answering())).run()
    assert time.monotonic() - began < 15
    first, second = (failure.error for failure in result.failures)
    assert isinstance(first, DeadlineExceeded)
    assert isinstance(second, DeadlineExceeded)
    assert (str(first), first.worker) == ("its own words", "w")
    assert "0.1 s" in str(second)


async def test_its_answer_reaches_through_compositions_around_it() -> None:
    inner = PLACED_PAR((give(1), HERE))
    result = await PAR(SEQ(inner), deadline=0.1, registry=registry_with(here=Answering())).run()
    error = result.failures[0].error
    assert isinstance(error, DeadlineExceeded)
    shown: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        shown.append(str(cause))
        cause = cause.exceptions[0] if isinstance(cause, ExceptionGroup) else cause.__cause__
    assert shown[-1] == "its own words"


async def test_a_backend_that_says_nothing_is_cut_off_after_its_grace() -> None:
    class Silent(Answering):
        deadline_grace = 0.1

        async def execute(self, process: Any, ctx: ProcessContext) -> ProcessResult:
            return await LocalBackend.execute(self, process, ctx)

    began = time.monotonic()
    result = await PLACED_PAR((forever, HERE), deadline=0.1, registry=registry_with(here=Silent())).run()
    assert 0.19 < time.monotonic() - began < 20
    assert isinstance(result.failures[0].error, DeadlineExceeded)


# Limits ------------------------------------------------------------------------------------------


async def test_a_limit_holds_across_compositions() -> None:
    gate = Gate()
    registry = registry_with(here=LocalBackend(2))
    pars = [PLACED_PAR(*[(gate.process(), HERE)] * 3, registry=registry) for _ in range(3)]
    running = asyncio.gather(*(par.run() for par in pars))
    for _ in range(2):
        await gate.arrival()
    gate.opened.set()
    results = await running
    assert all(result.is_ok for result in results)
    assert gate.most == 2
    assert busy_limiters() == []


async def test_a_backend_that_nobody_uses_any_more_is_not_kept() -> None:
    backend = LocalBackend(1)
    await PLACED_PAR((give(1), HERE), (give(2), HERE), registry=registry_with(here=backend)).run()
    kept = weakref.ref(backend)
    del backend
    gc.collect()
    assert kept() is None


async def test_who_waits_longest_is_next() -> None:
    order: list[str] = []

    @Process
    async def notes(ctx: ProcessContext) -> None:
        order.append(ctx.process_name)
        await asyncio.sleep(0)

    names = [str(index) for index in range(20)]
    await PLACED_PAR(
        *((notes.with_name(name), HERE) for name in names), registry=registry_with(here=LocalBackend(1))
    ).run()
    assert order == names


async def test_a_limit_holds_across_threads() -> None:
    backend = LocalBackend(1)
    inside, most = 0, 0
    lock = threading.Lock()

    @Process
    async def counts(ctx: ProcessContext) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        await asyncio.sleep(0.001)
        with lock:
            inside -= 1

    def run_some() -> bool:
        return PLACED_PAR(*[(counts, HERE)] * 20, registry=registry_with(here=backend)).run_sync().is_ok

    async with asyncio.timeout(20):
        assert await asyncio.gather(*(asyncio.to_thread(run_some) for _ in range(4))) == [True] * 4
    assert most == 1
    assert busy_limiters() == []


async def test_cancelling_someone_who_waits_frees_the_place_in_the_queue() -> None:
    gate = Gate()
    registry = registry_with(here=LocalBackend(1))
    first = asyncio.ensure_future(PLACED_PAR((gate.process("first"), HERE), registry=registry).run())
    await gate.arrival()
    second = asyncio.ensure_future(PLACED_PAR((gate.process("second"), HERE), registry=registry).run())
    third = asyncio.ensure_future(PLACED_PAR((gate.process("third"), HERE), registry=registry).run())
    await asyncio.sleep(0)
    second.cancel()
    gate.opened.set()
    assert (await first).is_ok
    assert (await third).is_ok
    with pytest.raises(asyncio.CancelledError):
        await second
    assert busy_limiters() == []


async def test_a_limit_that_grows_is_noticed_by_the_next_who_comes() -> None:
    class Growing(LocalBackend):
        limit = 1

        @property
        def concurrency_limit(self) -> int:
            return self.limit

    gate, backend = Gate(), Growing()
    registry = registry_with(here=backend)
    first = asyncio.ensure_future(PLACED_PAR(*[(gate.process(), HERE)] * 2, registry=registry).run())
    await gate.arrival()
    backend.limit = 3
    second = asyncio.ensure_future(PLACED_PAR((gate.process(), HERE), registry=registry).run())
    async with asyncio.timeout(5):
        await gate.arrival()
        await gate.arrival()
    gate.opened.set()
    assert all(result.is_ok for result in await asyncio.gather(first, second))


async def test_a_backend_that_enforces_its_limit_is_left_to_it() -> None:
    class Own(LocalBackend):
        enforces_limit = True

    gate = Gate()
    running = asyncio.ensure_future(
        PLACED_PAR(*[(gate.process(), HERE)] * 3, registry=registry_with(here=Own(1))).run()
    )
    for _ in range(3):
        await gate.arrival()
    gate.opened.set()
    assert (await running).is_ok


@pytest.mark.parametrize("limit", [1, 2])
async def test_compositions_do_not_wait_for_themselves(limit: int) -> None:
    gate = Gate()
    registry = registry_with(here=LocalBackend(limit))
    leaf = gate.process()
    there = placed(leaf, HERE)
    tree = PLACED_PAR((PLACED_PAR((leaf, HERE), (SEQ(there, leaf, PAR(leaf, there)), HERE)), HERE))
    gate.opened.set()
    async with asyncio.timeout(5):
        result = await PLACED_PAR(*[(tree, HERE)] * 4, registry=registry).run()
    assert result.is_ok
    assert busy_limiters() == []


async def test_processes_in_the_place_of_a_composition_may_talk_to_each_other() -> None:
    # They run under the composition's one slot, however many they are.
    gate = Gate()
    registry = registry_with(here=LocalBackend(1))
    running = asyncio.ensure_future(PLACED_PAR((PAR(*[gate.process()] * 3), HERE), registry=registry).run())
    async with asyncio.timeout(5):
        for _ in range(3):
            await gate.arrival()
    gate.opened.set()
    assert (await running).is_ok


async def test_no_more_than_the_limit_with_compositions_inside() -> None:
    gate = Gate()
    registry = registry_with(here=LocalBackend(2))
    inner = PLACED_PAR(*[(gate.process(), HERE)] * 4)
    running = asyncio.ensure_future(PLACED_PAR(*[(inner, HERE)] * 3, registry=registry).run())
    for _ in range(2):
        await gate.arrival()
    gate.opened.set()
    async with asyncio.timeout(5):
        assert (await running).is_ok
    assert gate.most == 2


async def test_slots_are_given_back_whatever_happens() -> None:
    registry = registry_with(here=LocalBackend(1))
    there = placed(forever, HERE)
    for processes, options in (
        ((PAR(boom, there), forever), {}),
        ((SEQ(boom, forever), forever), {"deadline": 0.05}),
        ((PAR(forever, limit=1), PAR(there)), {"deadline": 0.05, "on_failure": COLLECT}),
    ):
        assert not (await PLACED_PAR(*[(one, HERE) for one in processes], registry=registry, **options).run()).is_ok
        assert busy_limiters() == []
    running = asyncio.ensure_future(PLACED_PAR((PAR(forever), HERE), (forever, HERE), registry=registry).run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert busy_limiters() == []
