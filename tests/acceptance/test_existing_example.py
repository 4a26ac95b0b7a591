"""The example of an application that was there before: the same results without stbass and with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stbass.testing import RedisServer, Worker
from stbass.testing._guarded import GuardedProcess
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
BEFORE, AFTER = "examples.existing.shop", "examples.existing.shop_with_agents"
# What the application gives without stbass; in one line, so that a program without stbass can say it.
PROGRAM = (
    "from celery import chain; from examples.existing.shop import *\n"
    "print('receipt:', order(['cup', 'plate', 'pot']).delay().get(timeout=60))\n"
    "print('price:', price.delay('cup').get(timeout=60))\n"
    "print('chain:', chain(price.s('pot'), with_tax.s(percent=10)).delay().get(timeout=60))\n"
    "import sys; assert 'stbass' not in sys.modules\n"
)
# The blocks of the page, one after the other, each with what those before it have named.
PAGE = """
import ast, asyncio, inspect, re, pathlib
from celery import chain
from stbass import *
from stbass.backends.celery import *
from examples.existing.agents import *
from examples.existing.shop import *
async def main():
    page = pathlib.Path("docs/existing-application.md").read_text()
    for block in re.findall(r"```python\\n(.*?)```", page, re.DOTALL):
        code = compile(block, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        found = eval(code, globals())
        if inspect.isawaitable(found):
            await found
    print(described.value, summed.value)
asyncio.run(main())
"""
RESULTS = ["receipt: 70 EUR, on paper", "price: 7", "chain: 44"]

pytestmark = pytest.mark.acceptance


def said(server: RedisServer, *arguments: str) -> list[str]:
    env = {**os.environ, "SHOP_REDIS": server.url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("app", [BEFORE, AFTER])
async def test_its_tasks_routes_canvas_and_schedule_are_what_they_were(app: str, tmp_path: Path) -> None:
    with RedisServer() as server:
        args = ["-B", "-s", str(tmp_path / "schedule")]
        with Worker(app, "shop", "paper", env={"SHOP_REDIS": server.url}, cwd=ROOT, args=args) as worker:
            assert said(server, "-c", PROGRAM) == RESULTS
            await until(lambda: int(str(server.command("GET", "shop:stock") or 0)) >= 2, timeout=60)
            # Its own pool stays.
            assert ".> concurrency: 4 (thread)" in worker.log
            assert ("stbass.execute" in worker.log) is (app == AFTER)


def test_processes_run_beside_it_on_a_worker_of_the_asyncio_pool() -> None:
    with RedisServer() as server:
        env = {"SHOP_REDIS": server.url, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "stbass", "worker", "-A", AFTER, "-e", "agents"]
        beside = GuardedProcess(command, name="agents", env={**os.environ, **env}, cwd=ROOT)
        try:
            with Worker(AFTER, "shop", "paper", env=env, cwd=ROOT):
                beside.wait_for_log(" ready.", 60)
                lines = said(server, "-m", "examples.existing.day", "--agents")
                page = said(server, "-c", PAGE)
        finally:
            beside.kill()
    assert lines == [
        *RESULTS,
        "descriptions: ['a fine cup', 'a fine pot']",
        "tasks in a SEQ: 56",
        "process in a chain: All of it for 14 EUR!",
    ]
    assert page == ["['a fine cup', 'a fine pot'] 56"]
