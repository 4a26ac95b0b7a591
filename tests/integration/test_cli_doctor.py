"""``stbass doctor``: each of its lines, by breaking what it checks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from stbass.testing import RedisServer
from tests.integration.test_cli_status import ROOT, Operated
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


def before_others(path: Path) -> str:
    """``PYTHONPATH`` with one more."""
    return os.pathsep.join(filter(None, (str(path), os.environ.get("PYTHONPATH"))))


async def found(fleet: Operated, *arguments: str, **environment: str) -> dict[str, Any]:
    """What each check has found, by its name; a clean bill exits with 0."""
    done = await fleet.run("doctor", "--json", *arguments, **environment)
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
    # when what it says is done
    look, _, settle = checks["refused"]["remedy"].partition(" says why; ")
    [why] = fleet.server.command(*look.split())
    assert json.loads(why)["body"] == "not a message"
    fleet.server.command(*settle.removesuffix(" when it is settled").split())
    # and the worker stands still (what it has announced is gone after a while, in which a busy machine may not look)
    while True:
        worker.send_signal(signal.SIGSTOP)
        checks = await found(fleet)
        worker.send_signal(signal.SIGCONT)
        if "endpoint llm" in checks:
            break
        await until(lambda: fleet.server.command("KEYS", "stbass:worker:*"), timeout=PATIENCE)
    assert state(checks, "refused") == "ok: nothing"
    assert state(checks, "endpoint llm") == "error: 0 of 1 workers are well"
    assert state(checks, f"worker {worker.name}") == "error: it has not answered within 2 s"


async def test_a_server_that_says_nothing_of_itself(fleet: Operated) -> None:
    fleet.server.command("ACL SETUSER", "shy", "on", ">long", "~*", "&*", "+@all", "-info")
    url = fleet.server.url.replace("//", "//shy:long@")
    checks = await found(fleet, STBASS_BROKER_URL=url, STBASS_RESULT_BACKEND=url)
    assert state(checks, "broker and results: server").startswith("warning: it does not say how it is set (")
    # and Celery, which asks for that when it connects, cannot ask the workers
    assert state(checks, "one fleet").startswith("warning: the workers cannot be asked over the broker (Operational")
    # when it does not tell its settings either
    fleet.server.command("ACL SETUSER", "shy", "+info", "-config")
    checks = await found(fleet, STBASS_BROKER_URL=url, STBASS_RESULT_BACKEND=url)
    assert state(checks, "broker and results: timeout") == "ok: it does not say"


async def test_queues_whose_keys_begin_otherwise_than_those_of_results(fleet: Operated, tmp_path: Path) -> None:
    (tmp_path / "apart.py").write_text(
        "from stbass.backends.celery import make_app\n"
        f"app = make_app('apart', {fleet.server.url!r}, broker_transport_options={{'global_keyprefix': 'ours:'}},\n"
        "               result_backend_transport_options={'global_keyprefix': 'theirs:'})\n"
    )
    checks = await found(fleet, "--app", "apart", PYTHONPATH=before_others(tmp_path))
    assert state(checks, "one fleet") == "warning: keys of queues begin with 'ours:', those of results with 'theirs:'"


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
    # when it keeps its results elsewhere
    checks = await found(fleet, STBASS_SIGNING_KEY=KEY, STBASS_RESULT_BACKEND=elsewhere)
    assert state(checks, "one fleet") == f"error: the broker reaches {worker.name}, but the results do not know them"
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
        ("stbass-celery", "9.9.9", "no-such-package is not installed"),
        ("stbass", "0.1.1", "the package 'stbass' 0.1.1 is installed, another implementation of the same names"),
        ("celery", "5.4.0", "celery is 5.4.0, and >=5.7.0 is needed"),
    ],
)
async def test_packages_that_do_not_fit(fleet: Operated, tmp_path: Path, name: str, version: str, words: str) -> None:
    there = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
    there.mkdir()
    requires = "Requires-Dist: no-such-package; extra == 'celery'\n" if name == "stbass-celery" else ""
    (there / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
    assert state(await found(fleet, PYTHONPATH=before_others(tmp_path)), "packages") == f"error: {words}"


async def test_files_that_nobody_has_installed(tmp_path: Path) -> None:
    # given all packages of this environment but ours
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if not installed.name.startswith(("stbass", "_editable_impl_stbass")):
            (tmp_path / installed.name).symlink_to(installed)
    program = "from stbass.cli.doctor import check_packages\nfor one in check_packages(): print(one.state, one.found)"
    # when, without any others
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "warning stbass-celery is not installed, but used from its files\n"


async def test_an_application_that_is_not_there(fleet: Operated) -> None:
    done = await fleet.run("doctor", "--app", "no.such.module")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
