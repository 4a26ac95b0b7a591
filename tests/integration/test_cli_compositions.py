"""``stbass run`` and ``stbass graph``, as they are typed in a shell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIPES = """
import asyncio

from stbass import PAR, SEQ, BackendRegistry, FailurePolicy, LocalBackend, Placement, Process


@Process
async def fetch(ctx, url: str):
    return {"url": url}


@Process
async def shout(ctx):
    return str(await ctx.recv("input")).upper()


@Process
async def slow(ctx):
    await asyncio.sleep(600)


@Process
async def bad(ctx):
    raise ValueError("no such page; password=hunter2")


daily = SEQ(fetch, shout)
several = PAR(fetch("x"), bad, bad.with_name("worse"), on_failure=FailurePolicy.COLLECT)
placed = PAR(Process(placement=Placement(endpoint="here"))(fetch.function)("x"))
registry = BackendRegistry(strict=True)
registry.register("here", LocalBackend())
empty = BackendRegistry(strict=True)
number = 5
clears = "\\x1b[2J\\x9b2J [red]x[/red]\\n\\ttwo"


@Process
async def hostile(ctx):
    raise ValueError(clears)


@Process
async def half(ctx):
    return "half of an emoji \\ud83d, and … all"


strange = PAR(hostile, hostile.with_name(clears), on_failure=FailurePolicy.COLLECT).with_name(clears)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("pipes")
    (found / "pipes.py").write_text(PIPES)
    (found / "raising.py").write_text("import json\nvalue = json.loads('no')\n")
    return found


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "stbass", *arguments]


def stbass(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(*arguments), env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_run_prints_the_value_and_shows_progress_beside_it(folder: Path) -> None:
    done = stbass(folder, "run", "pipes:daily", "--input", '"https://e"')
    assert (done.returncode, done.stdout) == (0, "{'URL': 'HTTPS://E'}\n")
    assert "fetch: done" in done.stderr
    assert stbass(folder, "run", "pipes:daily", "--input", '"x"', "--quiet").stderr == ""


def test_run_as_json(folder: Path) -> None:
    done = stbass(folder, "run", "pipes:daily", "--input", '"x"', "--json", "-q")
    data = json.loads(done.stdout)
    assert (done.returncode, data["ok"], data["value"]) == (0, True, "{'URL': 'X'}")


def test_a_failure_is_told_with_its_leaves_and_an_exit_code(folder: Path) -> None:
    done = stbass(folder, "run", "pipes:several", "-q")
    assert (done.returncode, done.stdout) == (1, "")
    assert "2 of 3 processes of 'PAR' failed" in done.stderr
    assert "worse: ValueError: no such page" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
    failed = stbass(folder, "run", "pipes:several", "-q", "--json")
    assert (failed.returncode, json.loads(failed.stdout)["ok"]) == (1, False)


def test_what_a_terminal_cannot_write_is_written_otherwise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = stbass(folder, "run", "pipes:half", "-q")
    assert (done.returncode, done.stdout) == (0, "half of an emoji \\ud83d, and … all\n")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = stbass(folder, "graph", "pipes:daily")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("SEQ\n\\u251c\\u2500 1. fetch\n")


@pytest.mark.parametrize("quiet", [[], ["-q"]], ids=["progress", "quiet"])
def test_texts_of_strangers_do_nothing_to_the_terminal(folder: Path, quiet: list[str]) -> None:
    done = stbass(folder, "run", "pipes:strange", *quiet)
    assert done.returncode == 1
    assert "[red]x[/red]" in done.stderr
    assert [sign for sign in done.stderr if not sign.isprintable() and sign != "\n"] == []


def test_a_deadline_has_an_exit_code_of_its_own(folder: Path) -> None:
    done = stbass(folder, "run", "pipes:slow", "-q", "--deadline", "0.2")
    assert done.returncode == 4
    assert "the deadline of 0.2 s" in done.stderr


def test_the_registry_is_the_one_that_is_named(folder: Path) -> None:
    assert stbass(folder, "run", "pipes:placed", "-q", "--registry", "pipes:registry").returncode == 0
    refused = stbass(folder, "run", "pipes:placed", "-q", "--registry", "pipes:empty")
    assert refused.returncode != 0
    assert "'here'" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "pipes"], "write module:name"),
        (["run", "pipes:nothing"], "has no 'nothing'"),
        (["run", "nowhere:daily"], "there is no module 'nowhere'"),
        (["run", "raising:value"], "raising.py, line 2 (value = json.loads('no')), raises JSONDecodeError"),
        (["run", "pipes:number"], "neither a process nor a composition"),
        (["run", "pipes:daily"], "fetch needs `url`"),
        (["run", "pipes:daily", "--input", "x"], "this is not JSON"),
        (["run", "pipes:daily", "--input", "5"], "must be str"),
        (["run", "pipes:slow", "--registry", "pipes:number"], "not a BackendRegistry"),
        (["run", "pipes:slow", "--deadline", "nan"], "Invalid value for '--deadline'"),
        (["run", "pipes:slow", "--deadline", "inf"], "Invalid value for '--deadline'"),
        (["run", "pipes:slow", "--deadline", "0"], "Invalid value for '--deadline'"),
        (["attach", "nothing", "--deadline", "inf"], "Invalid value for '--deadline'"),
        (["demo", "--deadline", "nan"], "Invalid value for '--deadline'"),
        (["demo", "--deadline", "inf"], "Invalid value for '--deadline'"),
        (["graph", "pipes:number"], "neither a process nor a composition"),
        (
            ["graph", "pipes:daily", "--format", "png"],
            "Invalid value for '--format' / '-f': 'png' is not one of 'text'",
        ),
        (["process", "diagram", __file__, "-d", "up"], "Invalid value for '--direction' / '-d': 'up' is not one of"),
        (["process", "validate", __file__, "-t", "x"], "Invalid value for '--process-type' / '-t': 'x' is not one of"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(folder: Path, arguments: list[str], said: str) -> None:
    done = stbass(folder, *arguments, *(["-q"] if arguments[0] == "run" else []))
    assert done.returncode in (1, 2, 3)
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_it(folder: Path) -> None:
    with subprocess.Popen(
        command("run", "pipes:slow"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        while "slow: runs" not in (line := running.stderr.readline()):
            assert line, "it ended before it ran"
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        assert "Traceback" not in running.stderr.read()


@pytest.mark.parametrize("form", ["text", "mermaid", "dot", "svg", "json"])
def test_graph_draws_in_each_language(folder: Path, form: str) -> None:
    done = stbass(folder, "graph", "pipes:daily", "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fetch" in done.stdout
    assert "shout" in done.stdout
