"""The examples run as they stand, against real workers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stbass.testing import FakeLLM, RedisServer, Worker

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What a program must be set to for a fleet that is there."""
    with ExitStack() as stack:
        url = stack.enter_context(RedisServer()).url
        made = {
            "STBASS_BROKER_URL": url,
            "STBASS_RESULT_BACKEND": url,
            "STBASS_LLM_URL": stack.enter_context(FakeLLM(latency=0.05)).url,
        }
        for endpoint in ("anthropic", "local:8080"):
            stack.enter_context(Worker("celery_app", endpoint, env=made, cwd=ROOT))
        yield made


def run(arguments: list[str], environment: dict[str, str], cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_producer_gets_four_results(environment: dict[str, str]) -> None:
    lines = run(["examples/producer.py"], environment).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["reason", "classify", "summarize", "embed"]
    assert "Why is the sky blue? (step 4)" in lines[0]
    assert "'The parcel never came.': 'bad'" in lines[1]


# Models of components ----------------------------------------------------------------------------

SHIPPED = (
    "order,finished,in_time\nA-101,1104,True\nA-102,1304,True\nA-103,1519,True\nA-104,2033,True\nA-105,2298,True\n"
    "A-106,3352,True\nA-107,3662,False\nA-108,3937,True\nA-109,4102,True\nA-110,4342,True\nA-111,4692,True\n"
    "A-112,5007,True\n"
)
BAD = {
    "The parcel never came.",
    "The box was broken and so was the cup.",
    "Two weeks late, and nobody answered.",
    "The driver was rude.",
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with a copy of the examples, for those that write files."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_production_line(elsewhere: Path) -> None:
    lines = run(["-m", "examples.production_line"], {}, elsewhere).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["saw", "12", "59%", "75", "s"],
        ["drill", "12", "79%", "274", "s"],
        ["paint", "12", "75%", "267", "s"],
    ]
    assert lines[4:] == ["12 orders in 5007 s", "late: A-107"]
    assert (elsewhere / "shipped.csv").read_text() == SHIPPED


def test_the_production_line_from_its_file_as_a_job(elsewhere: Path) -> None:
    command = ["-m", "stbass.cli", "process", "run", "examples/production_line.yaml"]
    run([*command, "--job-id", "Job_monday01", "--state", "sqlite:line.db"], {}, elsewhere)
    assert (elsewhere / "shipped.csv").read_text() == SHIPPED


def test_hares_and_lynxes(elsewhere: Path) -> None:
    lines = run(["-m", "examples.predator_prey"], {}, elsewhere).splitlines()
    assert len(lines) == 30
    # They go round: many hares, then many lynxes, then few of both, and again.
    hares = [line.partition("|")[2].find("h") for line in lines]
    assert hares[10] == hares[21] == 49
    assert max(hares[2:7] + hares[14:17]) < 11
    drawn = run(["-m", "stbass.cli", "process", "run", "examples/predator_prey.yaml"], {}, elsewhere).splitlines()
    assert drawn[:30] == lines


def test_the_filter_with_a_language_model(elsewhere: Path) -> None:
    lines = run(["-m", "examples.llm_filter"], {}, elsewhere).splitlines()
    assert {line.removeprefix("bad: ") for line in lines[:4]} == BAD
    assert lines[4] == "8 reviews judged"
    assert re.fullmatch("at most [1-4] at the same time", lines[5])


def test_the_filter_from_its_file_with_a_server_of_ones_own(elsewhere: Path) -> None:
    with FakeLLM(latency=0.02) as model:
        settings = {"LLM_URL": model.url, "LLM_MODEL": "opus", "LLM_API_KEY": "made-up"}
        lines = run(
            ["-m", "stbass.cli", "process", "run", "examples/llm_filter.yaml"], settings, elsewhere
        ).splitlines()
        assert model.served == ["opus"] * 8
        assert model.most_waiting <= 4
    assert {line.removeprefix("bad: ") for line in lines if line.startswith("bad: ")} == BAD
