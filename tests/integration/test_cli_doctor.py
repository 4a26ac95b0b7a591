"""``stbass doctor``: each of its lines, by breaking what it checks."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from stbass.testing import RedisServer
from tests.integration.test_cli_status import Operated
from tests.support.puppets import Puppet
from tests.support.waiting import until

KEY = "a key that is long enough"
PATIENCE = 30.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as made:
        yield made


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Operated]:
    made = Operated(server)
    yield made
    await made.aclose()


async def found(fleet: Operated, **environment: str) -> dict[str, Any]:
    """What each check has found, by its name; a clean bill exits with 0."""
    done = await fleet.run("doctor", "--json", **environment)
    said = json.loads(done.stdout)
    assert (done.returncode == 0) is said["ok"] is all(one["state"] != "error" for one in said["checks"])
    assert done.stderr == ""
    assert all(one["remedy"] for one in said["checks"] if one["state"] != "ok")
    checks: dict[str, Any] = {one["check"]: one for one in said["checks"]}
    return checks


def state(checks: dict[str, Any], check: str) -> str:
    one = checks[check]
    return f"{one['state']}: {one['found']}"


async def test_a_fleet_that_is_well_and_a_server_that_is_not(fleet: Operated) -> None:
    worker = fleet.worker("llm")
    checks = await found(fleet)
    assert {one["state"] for one in checks.values()} == {"ok"}, checks
    assert f"worker {worker.name}" in checks
    shown = await fleet.run("doctor")
    assert all(line.startswith("OK ") for line in shown.stdout.splitlines())
    # when
    for name, value in (("maxmemory-policy", "allkeys-lru"), ("timeout", "5"), ("appendonly", "no"), ("save", "")):
        fleet.server.command("CONFIG SET", name, value)
    fleet.server.command("LPUSH", "llm", "not a message")
    await until(lambda: fleet.server.command("EXISTS", "stbass:refused:counts"), timeout=PATIENCE)
    # then
    checks = await found(fleet)
    assert state(checks, "broker and results: maxmemory-policy").startswith("error: allkeys-lru: when its memory")
    assert state(checks, "broker and results: timeout") == "warning: it closes connections after 5 idle seconds"
    assert state(checks, "broker and results: persistence").startswith("warning: none: a restart loses")
    assert state(checks, "refused") == "warning: 1 message"


@pytest.mark.slow
async def test_workers_that_do_not_fit(fleet: Operated) -> None:
    # given one that signs otherwise, and knows other processes
    worker = fleet.worker("llm", env={"TEST_SIGNING_KEY": KEY})
    mine = f"worker {worker.name}"
    assert state(await found(fleet), mine) == "error: it signs, and the application here does not"
    assert state(await found(fleet, STBASS_SIGNING_KEY=KEY[::-1]), mine) == "error: it signs with another key"
    checks = await found(fleet, STBASS_SIGNING_KEY=KEY, STBASS_INCLUDE="tests.support.puppets")
    assert checks[mine]["state"] == "ok"
    checks = await found(fleet, STBASS_SIGNING_KEY=KEY, STBASS_INCLUDE="tests.support.nested")
    assert state(checks, mine) == "error: it does not know the processes of tests.support.nested"
    # when it takes from another broker
    elsewhere = fleet.server.url.removesuffix("/0").rstrip("/") + "/5"
    checks = await found(fleet, STBASS_SIGNING_KEY=KEY, STBASS_BROKER_URL=elsewhere)
    assert state(checks, "one fleet") == f"error: the results know {worker.name}, but the broker does not reach them"
    # when there is none, though somebody waits
    worker.kill()
    waits = fleet.send("llm", Puppet(1))
    await until(lambda: fleet.server.command("LLEN", "llm"), timeout=PATIENCE)
    checks = await found(fleet)
    assert state(checks, "endpoint llm") == "error: 1 wait, and no worker consumes it"
    assert state(checks, "workers") == "warning: there are none"
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)


@pytest.mark.slow
async def test_an_endpoint_that_its_limit_stops(fleet: Operated) -> None:
    fleet.worker("llm")
    await fleet.run("limit", "llm", "--running", "0")
    waits = fleet.send("llm", Puppet(1))
    await until(lambda: fleet.server.command("ZCARD", "stbass:line:llm"), timeout=PATIENCE)
    assert state(await found(fleet), "endpoint llm") == "warning: stopped by its limit, and 1 wait"
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)


@pytest.mark.slow
async def test_servers_that_are_not_there(fleet: Operated) -> None:
    nowhere = "redis://somebody:secret@127.0.0.1:1/0"
    checks = await found(fleet, STBASS_BROKER_URL=nowhere)
    assert checks["results"]["state"] == "ok"
    assert checks["broker"]["state"] == "error"
    checks = await found(fleet, STBASS_RESULT_BACKEND=nowhere)
    assert checks["results"]["state"] == "error"
    checks = await found(fleet, STBASS_BROKER_URL="amqp://guest:secret@127.0.0.1:1//")
    assert checks["broker"]["state"] == "error"
    assert "secret" not in json.dumps(checks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("stbass", "0.1.1", "the package 'stbass' 0.1.1 is installed, another implementation of the same names"),
        ("celery", "5.4.0", "celery is 5.4.0, and >=5.7.0 is needed"),
    ],
)
async def test_packages_that_do_not_fit(fleet: Operated, tmp_path: Path, name: str, version: str, words: str) -> None:
    there = tmp_path / f"{name}-{version}.dist-info"
    there.mkdir()
    (there / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    assert state(await found(fleet, PYTHONPATH=path), "packages") == f"error: {words}"


async def test_an_application_that_is_not_there(fleet: Operated) -> None:
    done = await fleet.run("doctor", "--app", "no.such.module")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
