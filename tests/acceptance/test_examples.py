"""The examples and the README's code run as they stand, against real workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stbass.testing import FakeLLM, RedisServer, Worker

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)

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


def run(arguments: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
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


def test_the_readme_begins_with_a_program_for_the_event_loop_and_one_for_the_fleet() -> None:
    # Those of its sections on task lists and workflows are run by tests/unit/test_docs_frontends.py.
    assert ["celery_app" in block for block in BLOCKS] == [False, True, False, False]


def test_the_readme_on_one_event_loop(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(BLOCKS[0])
    lines = run([str(program)], {"PYTHONPATH": str(ROOT)}).splitlines()
    assert lines == ["6", "['It came a day early, thanks!', 'It came a day early, thanks!']"]


def test_the_readme_on_a_fleet(tmp_path: Path, environment: dict[str, str]) -> None:
    program = tmp_path / "program.py"
    program.write_text(BLOCKS[1])
    lines = run([str(program)], {**environment, "PYTHONPATH": str(ROOT)}).splitlines()
    assert lines[0].startswith("{'steps': 4, 'conclusion': ")
    assert lines[1].startswith("[[")
