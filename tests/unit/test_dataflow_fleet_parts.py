"""What a process on a fleet is made of, without a fleet."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

import stbass.dataflow
from stbass.backends.celery.settings import FleetSettings
from stbass.channel import Chan
from stbass.dataflow import (
    AsyncioConnector,
    CeleryProcess,
    Component,
    ConnectorSpec,
    LocalProcess,
    ProcessBuilder,
    RayConnector,
    RayProcess,
    RedisConnector,
)
from stbass.dataflow.distributed.fleet_classes import Admitted
from stbass.dataflow.distributed.fleet_line import Line, piece_size
from stbass.dataflow.library import FileReader
from stbass.dataflow.spec.model import load
from stbass.dataflow.state import SqliteStateBackend
from stbass.errors import ProcessRefused, WireError
from stbass.transports.redis.address import RedisAddress
from tests.support import dataflow, dataflow_fleet


def admitted(*include: str) -> Admitted:
    settings = FleetSettings(RedisAddress.parse("redis://localhost", "url"), None, include=include)
    return Admitted(settings.allows, "w@h", "left")


def test_classes_and_functions_of_included_modules() -> None:
    named = admitted("tests.support.dataflow", "tests.support.dataflow_fleet")
    assert named("tests.support.dataflow.Count") is dataflow.Count
    assert named("tests.support.dataflow_fleet.squared") is dataflow_fleet.squared


def test_ready_components_have_to_be_included_like_others() -> None:
    assert admitted("stbass.dataflow.library")("stbass.dataflow.library.FileReader") is FileReader
    with pytest.raises(ProcessRefused, match=r"add their module, 'stbass\.dataflow\.library', to include"):
        admitted("tests.support")("stbass.dataflow.library.FileReader")


def test_the_module_to_include_is_named_where_only_a_package_above_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stbass.dataflow.library")
    monkeypatch.delattr(stbass.dataflow, "library")
    for include in ("tests.support", "stbass.dataflow"):
        with pytest.raises(ProcessRefused, match=r"add their module, 'stbass\.dataflow\.library', to include"):
            admitted(include)("stbass.dataflow.library.FileReader")
    # a class in a class is none
    with pytest.raises(ProcessRefused, match=r"add their module, 'tests\.support\.dataflow', to include"):
        admitted("stbass")("tests.support.dataflow.Count.Inner")


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "tests.support.dataflow.asyncio.create_subprocess_shell",
        "tests.support.dataflow.wire",
        "tests.support.dataflow.Count.step",
        "tests.support.dataflow.Count.__init__.__globals__",
        "tests.support.dataflow.Missing",
        "tests.support.dataflow",
        "dataflow",
        "",
        ".",
        "antigravity.Component",
        "builtins.type",
        # of an included module, but not its own
        "tests.support.dataflow_fleet.Keep",
        "tests.support.dataflow_fleet.CeleryProcess",
    ],
)
def test_everything_else_is_refused_by_name(path: str) -> None:
    named = admitted("tests.support.dataflow_fleet", "antigravity")
    with pytest.raises(ProcessRefused, match="worker 'w@h' on queue 'left'") as caught:
        named(path)
    assert caught.value.reference == path
    # nothing was imported for it
    assert "antigravity" not in sys.modules


async def test_a_line_carries_messages_of_any_size_in_order() -> None:
    channel: Chan[bytes] = Chan(bytes, capacity=4)
    sender, reader = Line(channel, 10), Line(channel, 10)
    sent = [b"", b"1234567890", b"12345678901", bytes(range(256)) * 10, b"end"]
    for message in sent:
        sender.post(message)

    async with asyncio.timeout(5):
        found = []
        async for message in reader.messages():
            found.append(message)
            if message == b"end":
                await channel.aclose()
    assert found == sent


async def test_what_is_no_piece_is_refused() -> None:
    channel: Chan[bytes] = Chan(bytes, capacity=4)
    await channel.send(b"pickle")
    with pytest.raises(WireError, match="no piece of a message"):
        async for _ in Line(channel, 10).messages():
            raise AssertionError("not reached")


async def test_what_cannot_be_sent_any_more_is_dropped() -> None:
    channel: Chan[bytes] = Chan(bytes, capacity=1)
    line = Line(channel, 10)
    await channel.aclose()
    line.post(b"one")
    await line.flush()
    assert line.broken is not None
    line.post(b"two")
    await line.flush()


def test_pieces_fit_into_messages() -> None:
    assert piece_size(16 * 2**20) == 2**20
    assert piece_size(20_000) == 10_000


def test_a_component_is_refused_where_nothing_was_said() -> None:
    assert issubclass(dataflow.Count, Component)
    with pytest.raises(ProcessRefused):
        admitted()("tests.support.dataflow.Count")


@pytest.mark.parametrize(
    ("kind", "connector", "more"),
    [
        (LocalProcess, AsyncioConnector, {}),
        (RayProcess, RayConnector, {"placement": {"a": "one", "b": "one"}, "admission_timeout": 3.0}),
        (CeleryProcess, RedisConnector, {"placement": {"a": "l"}, "admission_timeout": 3.0, "app": "celery_app"}),
    ],
)
def test_what_is_dumped_is_the_same_when_it_is_built(
    kind: Any, connector: Any, more: dict[str, Any], tmp_path: Path
) -> None:
    for every in (None, 0.5):
        process = kind(
            [dataflow.Count(3, name="a"), dataflow.Keep(name="b")],
            [connector(ConnectorSpec("a.y", "b.x"), maxsize=3)],
            parameters={"factor": 2},
            state=SqliteStateBackend(tmp_path / "jobs.db"),
            checkpoint_every=every,
            **more,
        )
        process.dump(tmp_path / "one.yaml")
        again = ProcessBuilder.build(load(tmp_path / "one.yaml"))
        again.dump(tmp_path / "two.yaml")
        assert (tmp_path / "two.yaml").read_text() == (tmp_path / "one.yaml").read_text()
        assert type(again) is kind
        assert again.arguments()["checkpoint_every"] == every
        assert {name: again.arguments()[name] for name in more} == more
