"""What a process on a fleet is made of, without a fleet."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

import stbass.dataflow
from stbass.backends.celery.connections import RedisAddress
from stbass.backends.celery.settings import FleetSettings
from stbass.channel import Chan
from stbass.dataflow import Component
from stbass.dataflow._fleet_classes import Admitted
from stbass.dataflow._fleet_line import Line, piece_size
from stbass.dataflow.library import FileReader
from stbass.errors import ProcessRefused, WireError
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


def test_dataflow_itself_imports_no_celery() -> None:
    code = "import sys, stbass.dataflow as d; d.LocalProcess; print({'celery', 'redis'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
