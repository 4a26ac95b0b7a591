"""Compositions and values that are nested very deep: they work, or are refused with a sentence."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from stbass import PAR, PAR_FOR, PLACED_PAR, SEQ, SEQ_FOR, Chan, Placement, Process, wire
from stbass._engine.composition import MOST_NESTED
from stbass.backends._pool_protocol import pickled
from stbass.errors import ChannelTypeError, NotTransportable
from stbass.failure import FailureReport
from stbass.process import ProcessContext

Kind = Callable[[Any], Any]
KINDS: dict[str, list[Kind]] = {
    "SEQ": [SEQ],
    "PAR": [PAR],
    "both": [SEQ, PAR],
    "PAR_FOR": [lambda inner: PAR_FOR(1, inner)],
    "SEQ_FOR": [lambda inner: SEQ_FOR(1, inner)],
    "PLACED_PAR": [lambda inner: PLACED_PAR((inner, Placement()))],
}


@Process
async def leaf(ctx: ProcessContext) -> str:
    return "leaf"


@Process
async def fails(ctx: ProcessContext) -> None:
    raise LookupError("gone")


class Digs(Process):
    def __init__(self, depth: Any) -> None:
        self.depth = depth

    async def run(self, ctx: ProcessContext) -> Any:
        return self.depth


def nested(kinds: list[Kind], inner: Any, depth: int) -> Any:
    for index in range(depth):
        inner = kinds[index % len(kinds)](inner)
    return inner


@pytest.mark.parametrize("kind", KINDS)
def test_too_deep_is_refused_when_it_is_made(kind: str) -> None:
    with pytest.raises(ValueError, match=f"compositions are nested more than {MOST_NESTED} deep, at '"):
        nested(KINDS[kind], leaf, 1000)


@pytest.mark.parametrize("kind", KINDS)
def test_the_deepest_runs_and_tells(kind: str) -> None:
    deepest = nested(KINDS[kind], leaf, MOST_NESTED)
    assert deepest.run_sync().is_ok
    assert repr(deepest)
    assert pickle.loads(pickle.dumps(deepest)).run_sync().is_ok
    result = nested(KINDS[kind], fails, MOST_NESTED).run_sync()
    [failure] = result.failures
    assert "LookupError: gone" in failure.leaves[0]
    assert "LookupError: gone" in failure.summary
    assert "LookupError" in failure.detailed
    assert "LookupError: gone" in FailureReport.of(result.results).summary()
    assert traceback.format_exception(failure.error)


@pytest.mark.parametrize("depth", [MOST_NESTED, "deep", None])
def test_a_process_may_have_a_depth_of_its_own(depth: Any) -> None:
    assert PAR(SEQ(Digs(depth))).run_sync().value == [depth]


@pytest.mark.parametrize("made", [PAR_FOR, SEQ_FOR])
def test_what_factories_make_is_refused_when_it_runs(made: Any) -> None:
    def again(index: int, ctx: ProcessContext) -> Any:
        return made(1, again)

    [failure] = made(1, again).run_sync().failures
    assert f"compositions are nested more than {MOST_NESTED} deep" in failure.leaves[0]


def test_it_is_refused_on_the_wire_with_a_sentence() -> None:
    with pytest.raises(NotTransportable, match="nested"):
        wire.dumps(nested([PAR], leaf, MOST_NESTED))


@pytest.fixture
def deep() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


async def test_values_nested_deep_go_over_channels_and_into_results(deep: Any) -> None:
    channel: Chan[Any] = Chan(object)
    sending = asyncio.create_task(channel.send(deep))
    assert await channel.recv() is deep
    await sending

    async def gives(ctx: ProcessContext) -> Any:
        return deep

    assert (await PAR(Process(gives)).run()).value[0] is deep


async def test_values_nested_too_deep_are_refused_with_a_sentence(deep: Any) -> None:
    with pytest.raises(ChannelTypeError, match="nested too deep to be checked"):
        await Chan(list[int]).send(deep)
    with pytest.raises(NotTransportable, match="it is nested too deep"):
        pickled(deep, "a value")
    with pytest.raises(NotTransportable, match="nested"):
        wire.dumps(deep)
