"""A worker ends with the same exit code as one of stock Celery, whatever it is told and whatever it does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import UntilTold
from tests.support.waiting import until

SIGINT, SIGQUIT, SIGTERM = signal.SIGINT, signal.SIGQUIT, signal.SIGTERM
SOFT = {"TEST_SOFT_SHUTDOWN": "0.5"}
slow = pytest.mark.slow


@asynccontextmanager
async def _at_work(kind: str, app: Celery, queue: str, folder: Path) -> AsyncIterator[None]:
    """Something runs, until its file is there."""
    started, let_go = folder / "started", folder / "let_go"
    if kind == "stock":
        app.send_task("stock.until_told", (str(started), str(let_go)), queue=queue)
        await until(started.exists, timeout=30)
        yield
        return
    async with aclosing(CeleryBackend(app, queue=queue)) as backend:
        running = asyncio.create_task(backend.execute(UntilTold(str(started), str(let_go)), ProcessContext("p")))
        await until(started.exists, timeout=30)
        yield
        running.cancel()
        await asyncio.wait([running])


async def _code_of(kind: str, busy: bool, told: list[Any], server: RedisServer, folder: Path, **env: str) -> int:
    folder.mkdir()
    queue = f"{kind}-{folder.parent.name}"
    app = make_app("tests", broker_url=server.url)
    env |= {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_GRACE": "60"}
    name, pool = ("tests.support.stock_app", "prefork") if kind == "stock" else (APP, kind)
    with Worker(name, queue, pool=pool, env=env, concurrency=2) as worker:
        while not app.control.ping([worker.name], timeout=1):
            """It says that it is ready a moment before it hears, and is."""

        async def tell() -> None:
            for one in told:
                said = len(worker.log)
                if one == "shutdown":
                    app.control.shutdown([worker.name])
                else:
                    worker.send_signal(one)
                    await until(lambda said=said: len(worker.log) > said or not worker.running, timeout=30)  # type: ignore[misc]
            (folder / "let_go").touch()
            await until(lambda: not worker.running, timeout=60)

        if busy:
            async with _at_work(kind, app, queue, folder):
                await tell()
        else:
            await tell()
        assert worker.exit_code is not None
        return worker.exit_code


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", ["asyncio", pytest.param("prefork", marks=slow)])
@pytest.mark.parametrize(
    ("busy", "told", "env"),
    [
        pytest.param(True, [SIGINT], {}, id="busy, SIGINT"),
        pytest.param(False, [SIGINT], {}, id="SIGINT", marks=slow),
        pytest.param(False, [SIGTERM], {}, id="SIGTERM", marks=slow),
        pytest.param(False, [SIGQUIT], {}, id="SIGQUIT", marks=slow),
        pytest.param(False, [SIGQUIT], SOFT, id="soft", marks=slow),
        pytest.param(False, ["shutdown"], {}, id="control.shutdown", marks=slow),
        pytest.param(True, [SIGTERM], {}, id="busy, SIGTERM", marks=slow),
        pytest.param(True, [SIGQUIT], {}, id="busy, SIGQUIT", marks=slow),
        pytest.param(True, [SIGQUIT], SOFT, id="busy, soft", marks=slow),
        pytest.param(True, ["shutdown"], {}, id="busy, control.shutdown", marks=slow),
    ],
)
async def test_the_exit_code_is_that_of_stock_celery(
    kind: str, busy: bool, told: list[Any], env: dict[str, str], server: RedisServer, tmp_path: Path
) -> None:
    codes = [
        await _code_of(which, busy, told, server, tmp_path / which.replace("prefork", "ours"), **env)
        for which in ("stock", kind)
    ]
    assert codes[0] == codes[1]


@slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", ["stock", "asyncio", "prefork"])
@pytest.mark.parametrize("told", [[SIGINT, SIGINT], [SIGTERM, SIGQUIT], [SIGINT, SIGQUIT]], ids=str)
async def test_two_signals(kind: str, told: list[Any], server: RedisServer, tmp_path: Path) -> None:
    # Stock Celery's code is that of the first signal if the worker had begun to stop when the second one came, else 0.
    code = await _code_of(kind, True, told, server, tmp_path / kind)
    assert code in (0, 1 if told[0] is SIGINT else 0)
