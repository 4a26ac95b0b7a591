"""The code of the pages on agents, runs, task lists and workflows, of the README, and their examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from stbass.testing import RedisServer, Worker
from tests.support.site import Site

ROOT = Path(__file__).parents[2]
TITLES = [
    "agents",
    "algebra",
    "how-fast",
    "limits",
    "look-at-a-run",
    "pass-data",
    "runs",
    "stop-and-retry",
    "tasklist",
    "tutorial",
    "workflow",
]
PAGES = ("README.md", *(f"docs/{page}.md" for page in TITLES))
FENCE = re.compile(r"^```(python|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)
MODULE = re.compile(r"# (\w+)\.py\n")


@dataclass(frozen=True)
class Program:
    """A program and what it prints."""

    place: str
    code: str
    output: str


def read(place: str, text: str) -> tuple[list[Program], dict[str, str]]:
    """The programs of a page, and the modules that it has for them."""
    programs: list[Program] = []
    modules: dict[str, str] = {}
    pending = ""
    for kind, body in FENCE.findall(text):
        if kind == "python" and (name := MODULE.match(body)):
            modules[name[1]] = body
        elif kind == "python":
            assert not pending, f"{place}: a program without its output:\n{pending}"
            pending = body
        else:
            programs.append(Program(f"{place} {len(programs)}", pending, body))
            pending = ""
    assert not pending, f"{place}: a program without its output:\n{pending}"
    return programs, modules


PROGRAMS: list[Program] = []
MODULES: dict[str, str] = {}
for page in PAGES:
    found, parts = read(page, (ROOT / page).read_text())
    PROGRAMS += found
    MODULES |= parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs and their modules are."""
    made = tmp_path_factory.mktemp("docs")
    for name, code in MODULES.items():
        (made / f"{name}.py").write_text(code)
    return made


@pytest.fixture(scope="module")
def settings(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a program that uses a fleet whose workers include the pages' modules."""
    with ExitStack() as stack:
        url = stack.enter_context(RedisServer()).url
        environment = {
            "STBASS_BROKER_URL": url,
            "STBASS_RESULT_BACKEND": url,
            "STBASS_FUNCTIONS": "word_tasks",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))),
        }
        for endpoint in ("anthropic", "local:8080"):
            stack.enter_context(Worker("stbass.app", endpoint, env=environment, include=list(MODULES), cwd=ROOT))
        yield environment


def run(command: list[str], environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.place)
def test_a_program_prints_what_the_page_says(program: Program, folder: Path, request: pytest.FixtureRequest) -> None:
    environment = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}
    if "stbass.app" in program.code:
        environment = request.getfixturevalue("settings")
    path = folder / f"program_{PROGRAMS.index(program)}.py"
    path.write_text(program.code)
    assert run([str(path)], environment, folder) == program.output


def test_every_page_has_programs() -> None:
    places = {program.place.rpartition(" ")[0] for program in PROGRAMS}
    assert places == set(PAGES)


def test_the_page_of_the_tutorial_follows_a_run(settings: dict[str, str], folder: Path) -> None:
    command = ("-m", "uvicorn", "word_page:web", "--port", "{port}")
    site = Site(*command, ready="Uvicorn running on", environment=settings, cwd=folder)
    try:
        site.start()
        connection, answer = site.open("GET", "/")
        with closing(connection):
            assert "EventSource" in answer.read().decode()
        run_id = site.ask("POST", "/runs")[1]
        following = site.follow(f"/runs/{run_id}/events")
        seen = [next(event for event in following if event["kind"] == "output")]
        # A reader that is cut off, and a server that is started anew.
        following.close()  # type: ignore[attr-defined]
        site.kill()
        site.start()
        seen += site.follow(f"/runs/{run_id}/events", seen[-1]["id"])
        words = [event["value"] for event in seen if event["kind"] == "output"]
        assert " ".join(words) == "to be or not to be, that is the question"
        assert seen[-1]["value"] == 10
    finally:
        site.kill()


def example(name: str) -> list[str]:
    return run(["-m", f"examples.{name}"], {"PYTHONPATH": str(ROOT)}, ROOT).splitlines()


def test_the_example_of_a_task_list() -> None:
    assert example("tasklist_report") == [
        "initialized",
        "[3, 'complete', 16.7, 6.5, 'posted: the report is on its way']",
        "completed, three tasks of 0.1 s in less than 0.3 s: True",
        "north: 16.7",
        "south: 6.5",
        "east: [mean] ZeroDivisionError: division by zero",
    ]


def test_the_example_of_a_workflow() -> None:
    lines = example("workflow_article")
    assert lines[:8] == [
        "workflow 'article': node 'write' failed: RuntimeError: out of paper (nodes: 3 completed, 2 failed)",
        "  fetch: completed, 0 retries, no error",
        "  lookup: completed, 1 retries, ConnectionError: the line is busy",
        "  count: completed, 0 retries, no error",
        "  illustrate: failed, 0 retries, FileNotFoundError: no picture",
        "  write: failed, 0 retries, RuntimeError: out of paper",
        "10 words, from Hoare 1978, May 1984, without a picture",
        "fetched anew: False",
    ]
    assert "    n3 -.-> n4" in lines
    assert lines[-1] == "occam: processes that talk over channels do not share memory"
    # It finds itself as a script, too: there its classes are those of __main__, which the pool's processes must find.
    assert run(["examples/workflow_article.py"], {"PYTHONPATH": str(ROOT)}, ROOT).splitlines() == lines


def test_the_example_of_a_task_list_on_real_workers() -> None:
    assert example("tasklist_fleet") == [
        "Why is the sky blue? Because.",
        "Why is the grass green? Because.",
        "4 words on the worker of local:8080: True",
        "2 words here: True",
        "completed",
    ]


@pytest.mark.slow
def test_the_example_of_a_workflow_on_three_endpoints() -> None:
    lines = example("workflow_fleet")
    assert lines[:4] == [
        "crawl: completed by the worker of web",
        "reason: completed by the worker of anthropic",
        "embed: completed by the worker of local:8080",
        "report: 5 pages say that the sky is blue; 5 vectors",
    ]
    assert '    n1["reason<br/>opus @ anthropic"]' in lines
