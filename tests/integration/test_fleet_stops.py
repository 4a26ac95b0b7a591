"""Workers that are stopped while processes run on them, and another worker is ready."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import pytest

from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.placement import PLACED_PAR
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, workers_on
from tests.support.agents import UntilTold
from tests.support.backends import registry_of
from tests.support.waiting import until

ANTHROPIC = Placement(endpoint="anthropic")
COUNT = 20
SIGQUIT, SIGINT, SIGTERM = signal.SIGQUIT, signal.SIGINT, signal.SIGTERM


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("signals", "env", "code"),
    [
        pytest.param([SIGQUIT], {}, 0, id="SIGQUIT"),
        pytest.param([SIGINT, SIGINT], {}, None, id="SIGINT twice"),
        pytest.param([SIGTERM, SIGQUIT], {}, None, id="SIGTERM, SIGQUIT"),
        pytest.param([SIGQUIT, SIGQUIT], {}, None, id="SIGQUIT twice", marks=pytest.mark.slow),
        pytest.param([SIGQUIT], {"TEST_SOFT_SHUTDOWN": "0.5"}, 0, id="soft shutdown", marks=pytest.mark.slow),
        pytest.param([SIGTERM], {"TEST_GRACE": "0.1"}, 0, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
async def test_what_runs_on_a_worker_that_is_stopped_goes_to_another_one(
    signals: list[signal.Signals], env: dict[str, str], code: int | None, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    let_go = tmp_path / "let_go"
    # Leases are long: what is not handed back comes too late.
    with RedisServer() as server, workers_on(server, "anthropic", env={"TEST_GRACE": "20", **env}) as fleet:
        first = fleet.workers["anthropic"]
        async with aclosing(CeleryBackend(fleet.app(), lease=60.0, max_attempts=1)) as backend:
            composition = PLACED_PAR(
                *[(UntilTold(str(log), str(let_go)).with_name(f"p{n}"), ANTHROPIC) for n in range(COUNT)],
                registry=registry_of(backend),
                deadline=40.0,
                on_failure=FailurePolicy.COLLECT,
            )
            running = asyncio.create_task(composition.run())
            await until(lambda: log.exists() and len(log.read_text().splitlines()) == COUNT)
            async with Worker(APP, "anthropic", env=fleet.env):
                for which in signals:
                    said = len(first.log)
                    first.send_signal(which)
                    # The next one comes when this one is being dealt with.
                    await until(lambda said=said: len(first.log) > said)  # type: ignore[misc]
                await until(lambda: first.exit_code is not None)
                assert code is None or first.exit_code == code
                # when the first worker is gone, the second one runs them all, again from their start
                await until(lambda: len(log.read_text().splitlines()) == 2 * COUNT)
                let_go.touch()
                result = await running
                await until(lambda: server.command("HLEN", "unacked") == 0)
    assert [item.failure.error for item in result.results if item.is_fail] == []
    assert [item.run.attempt for item in result.results if item.run is not None] == [2] * COUNT
    starts = Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("started"))
    ends = Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("ended"))
    assert (set(starts.values()), set(ends.values())) == ({2}, {1})
