"""``stbass runs``, ``follow``, ``cancel`` and ``attach``, on a real fleet."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stbass import PAR, PLACED_PAR, SEQ, Chan, FailurePolicy, Placement, start
from stbass.backends.celery import CeleryBackend
from stbass.placement import BackendRegistry
from stbass.testing import RedisServer
from tests.integration.conftest import Fleet, workers_on
from tests.support.backends import registry_of
from tests.support.told_agents import broken, forever, hears, says_late, telling

ROOT = Path(__file__).parents[2]
HERE = Placement(endpoint="told")


@pytest.fixture(scope="module")
def fleet(server: RedisServer) -> Iterator[Fleet]:
    with workers_on(server, "told", include=["tests.support.told_agents"]) as made:
        yield made


@pytest.fixture
def registry(backend: CeleryBackend) -> BackendRegistry:
    return registry_of(backend)


def stbass(fleet: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stbass.cli", *arguments],
        env={**os.environ, **fleet.env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


async def test_a_run_is_followed_from_its_beginning_after_it_has_ended(fleet: Fleet, registry: BackendRegistry) -> None:
    run = await start(SEQ(telling, telling.with_name("second")), placement=HERE, registry=registry, id="one [b] run")
    await run.result()
    done = stbass(fleet, "follow", run.id)
    assert done.returncode == 0
    lines = [line.partition("  ")[2] for line in done.stdout.splitlines()]
    worker = fleet.workers["told"].name
    assert lines == [
        "SEQ: waits",
        f"SEQ: runs on {worker}",
        f"SEQ/telling: runs on {worker}",
        "SEQ/telling: a first word",
        "SEQ/telling: 1 of 2 pages",
        "SEQ/telling: checkpoint {'page': 1}",
        "SEQ/telling: done",
        f"SEQ/second: runs on {worker}",
        "SEQ/second: a first word",
        "SEQ/second: 1 of 2 pages",
        "SEQ/second: checkpoint {'page': 1}",
        "SEQ/second: done",
        "SEQ: done",
    ]
    # and after one of its events, as JSON
    events = [json.loads(line) for line in stbass(fleet, "follow", run.id, "--json").stdout.splitlines()]
    assert [event["kind"] for event in events][:4] == ["queued", "started", "started", "output"]
    rest = stbass(fleet, "follow", run.id, "--json", "--after", events[3]["id"]).stdout.splitlines()
    assert [json.loads(line) for line in rest] == events[4:]


async def test_the_timeline_of_a_run_has_all_that_is_in_it(fleet: Fleet, registry: BackendRegistry) -> None:
    run = await start(SEQ(telling, broken), placement=HERE, registry=registry)
    await run.result()
    done = stbass(fleet, "follow", run.id, "--timeline")
    assert done.returncode == 1
    assert "SEQ: 3 processes in" in done.stdout
    assert "1 done, 2 failed" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if "█" in line] == ["SEQ", "SEQ/telling", "SEQ/broken"]
    assert "ValueError: no such page" in done.stderr


def drawn_at_ctrl_c(fleet: Fleet, run_id: str) -> tuple[int, str]:
    """The exit code of ``stbass follow --timeline``, and what it drew, interrupted once it has read something."""
    command = [sys.executable, "-m", "stbass.cli", "follow", run_id, "--timeline"]
    for seconds in (2, 5, 15, 40):  # it does not say when it has
        draws = subprocess.Popen(command, env={**os.environ, **fleet.env}, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        with suppress(subprocess.TimeoutExpired):
            draws.wait(seconds)
        draws.send_signal(signal.SIGINT)
        shown, _ = draws.communicate(timeout=60)
        if shown:
            break
    return draws.returncode, shown


async def test_the_timeline_of_a_run_is_drawn_at_ctrl_c_and_what_a_cancelled_run_had_in_it_has_ended(
    fleet: Fleet, registry: BackendRegistry
) -> None:
    # given a run under way
    run = await start(SEQ(telling, PAR(forever, forever)), placement=HERE, registry=registry)
    under_way = 0
    async for event in run.events():
        under_way += event.kind == "progress" and event.name == "forever"
        if under_way == 2:
            break
    # when its timeline is asked for, and that is interrupted,
    code, shown = drawn_at_ctrl_c(fleet, run.id)
    # then it is drawn.
    assert code == 130
    assert "5 processes in" in shown
    assert "1 done, 4 running" in shown
    # When the run is cancelled, nothing in it runs any more.
    await run.cancel()
    await run.result()
    done = stbass(fleet, "follow", run.id, "--timeline")
    assert "5 processes in" in done.stdout
    assert "1 done, 4 cancelled" in done.stdout


async def test_the_timeline_of_a_run_has_what_waited_in_channels(fleet: Fleet, registry: BackendRegistry) -> None:
    # given one that waits for what another says late
    words: Chan[int] = Chan(int, name="words")
    members = says_late.with_channels(out=words), hears.with_channels(inp=words)
    run = await start(PAR(*members), placement=HERE, registry=registry)
    assert (await run.result()).is_ok
    # when somebody looks at it
    text = stbass(fleet, "follow", run.id, "--timeline").stdout
    # then it says so
    assert ["░" in line for line in text.splitlines() if "hears" in line] == [True]
    [waits] = [event.waits async for event in run.events() if event.name == "hears" and event.kind == "ended"]
    assert waits is not None
    assert [(one.channel, one.direction) for one in waits.longest] == [("words", "receive")]


async def test_runs_are_listed_the_newest_first(fleet: Fleet, registry: BackendRegistry) -> None:
    ended = await start(telling, placement=HERE, registry=registry, id="listed [red]")
    await ended.result()
    running = await start(forever, placement=HERE, registry=registry)
    try:
        async for event in running.events():
            if event.kind == "progress":
                break
        found = [json.loads(line) for line in stbass(fleet, "runs", "--json").stdout.splitlines()]
        assert [(one["id"], one["name"], one["state"]) for one in found[:2]] == [
            (running.id, "forever", "running"),
            ("listed [red]", "telling", "ended"),
        ]
        shown = stbass(fleet, "runs", "--most", "2").stdout.splitlines()
        assert len(shown) == 3
        assert shown[0].split() == ["id", "process", "state", "worker", "since", "progress"]
        assert shown[1].split()[:4] == [running.id, "forever", "running", fleet.workers["told"].name]
        assert shown[2].startswith("listed [red] ")
        # when it is cancelled, it has ended
        done = stbass(fleet, "cancel", running.id)
        assert (done.returncode, "was cancelled" in done.stdout) == (0, True)
    finally:
        await running.cancel()
    assert "had ended already" in stbass(fleet, "cancel", running.id).stdout
    # what others have named does not reach the terminal as it is
    odd = await start(telling.with_name("co\x1b[31mlour"), placement=HERE, registry=registry, id="o\x1b[31mdd")
    await odd.result()
    for arguments in (["runs"], ["follow", odd.id], ["cancel", odd.id]):
        assert "\x1b" not in stbass(fleet, *arguments).stdout
    told = json.loads(stbass(fleet, "cancel", running.id, "--json").stdout)
    assert (told["id"], told["name"], told["had_ended"], told["ok"]) == (running.id, "forever", True, False)
    assert stbass(fleet, "follow", running.id).returncode == 1


async def test_in_a_narrow_terminal_an_id_can_be_copied(fleet: Fleet, registry: BackendRegistry) -> None:
    run = await start(telling, placement=HERE, registry=registry)
    await run.result()
    ours, theirs = pty.openpty()
    env = {**os.environ, **fleet.env, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "40"}
    command = [sys.executable, "-m", "stbass.cli", "runs", "--most", "1"]
    done = await asyncio.to_thread(subprocess.run, command, env=env, cwd=ROOT, stdout=theirs, timeout=90, check=True)
    os.close(theirs)
    lines = os.read(ours, 10_000).decode().splitlines()
    os.close(ours)
    assert done.returncode == 0
    assert lines[0] == run.id
    assert lines[1].startswith(f"  telling, ended, {fleet.workers['told'].name}, ")


def shown_on_pages() -> list[tuple[str, str]]:
    """The commands that pages show as they are on a fleet, and what each prints."""
    text = "".join((ROOT / "docs" / page).read_text() for page in ("operate.md", "look-at-a-run.md"))
    shown = re.compile(r"^    \$ stbass ((?:status|doctor|runs|follow)[^#\n]*)\n((?:    [^$\n].*\n)+)", re.MULTILINE)
    return [(command, output) for command, output in shown.findall(text)]


def without_what_differs(text: str) -> list[str]:
    """The lines of an output without numbers, the names of workers and endpoints, and what depends on their lengths."""
    for pattern, instead in (
        (r"\S+@\S+", "WORKER"),
        (r"redis://\S+", "URL"),
        (r"\btold\b", "anthropic"),
        (r"(?<=Group: ).*", ""),
        (r"\d+([.:]\d+)*", "0"),
        (r"0 (ms|min)\b", "0 s"),
        (r"[ ·█]+", " "),
    ):
        text = re.sub(pattern, instead, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


async def test_the_pages_show_what_the_commands_print(fleet: Fleet, registry: BackendRegistry) -> None:
    report = SEQ(telling.with_name("read"), broken.with_name("write")).with_name("report")
    run = await start(report, placement=HERE, registry=registry, id="order-42")
    await run.result()
    pages = shown_on_pages()
    assert [command.split()[0] for command, _ in pages] == ["status", "doctor", "runs", "follow", "follow"]
    for command, output in pages:
        for _ in range(5):
            done = stbass(fleet, *command.split())
            if (found := without_what_differs(done.stdout)) == without_what_differs(output):
                break  # where the machine is busy, a worker may have answered too late
        assert found == without_what_differs(output), done.stderr


async def test_a_group_is_attached_to(fleet: Fleet, registry: BackendRegistry, backend: CeleryBackend) -> None:
    pairs = [(telling, HERE), (broken, HERE)]
    result = await PLACED_PAR(*pairs, registry=registry, on_failure=FailurePolicy.COLLECT).run()
    done = stbass(fleet, "attach", result.group.id)
    assert done.returncode == 1
    assert "2 processes in" in done.stdout
    assert "ValueError: no such page" in done.stderr
    lines = stbass(fleet, "attach", result.group.id, "--json").stdout.splitlines()
    assert [json.loads(line)["ok"] for line in lines] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["follow", "nothing"], "no run 'nothing' is known"),
        (["cancel", "nothing"], "no run 'nothing' is known"),
        (["follow", "x" * 201], "1 to 200 characters"),
        (["attach", "nothing"], "nothing"),
        (["runs", "--app", "nowhere"], "there is no such Celery application"),
    ],
)
def test_what_is_not_there_is_told_in_a_sentence(fleet: Fleet, arguments: list[str], said: str) -> None:
    done = stbass(fleet, *arguments)
    assert done.returncode == 3
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_server_that_is_not_there_is_told_in_a_sentence() -> None:
    nowhere = {"STBASS_BROKER_URL": "redis://127.0.0.1:1/0", "STBASS_RESULT_BACKEND": "redis://127.0.0.1:1/0"}
    for arguments in (["runs"], ["follow", "x"]):
        done = subprocess.run(
            [sys.executable, "-m", "stbass.cli", *arguments],
            env={**os.environ, **nowhere},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 1
        assert "127.0.0.1:1" in done.stderr
        assert "Traceback" not in done.stderr
