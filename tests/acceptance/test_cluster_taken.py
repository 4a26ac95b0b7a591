"""Messages that a worker has taken, and not started, when it is killed."""

from __future__ import annotations

import os
import signal
from typing import Any

import msgspec
import pytest
from pytest_celery import CeleryTestSetup

from stbass import wire
from stbass._values.ids import new_id
from stbass.backends.celery.envelope import ENVELOPE_HEADER, Envelope
from stbass.backends.celery.settings import EXECUTE
from tests.acceptance.conftest import ClusterWorker
from tests.support.agents import Give

pytestmark = pytest.mark.acceptance

LEASE = 1.0


class HastyWorker(ClusterWorker):
    variables = {"TEST_LEASE": str(LEASE)}  # noqa: RUF012


@pytest.fixture
def default_worker_container_cls() -> type[ClusterWorker]:
    return HastyWorker


def _send(celery_setup: CeleryTestSetup, value: str) -> Any:
    """Send a process, and return when its message is in Redis."""
    task_id = new_id()
    envelope = Envelope(task_id, "anthropic", "give", LEASE, msgspec.Raw(wire.dumps(Give(value))))
    text = msgspec.json.encode(envelope).decode()
    return celery_setup.app.send_task(EXECUTE, task_id=task_id, queue="anthropic", headers={ENVELOPE_HEADER: text})


def test_a_message_on_its_way_to_a_killed_worker_is_not_lost(celery_setup: CeleryTestSetup) -> None:
    worker, broker = celery_setup.worker, celery_setup.broker.container.client
    # The worker waits for messages; Redis gives it one that it does not come to read.
    os.kill(worker.container.pid, signal.SIGSTOP)
    answer = _send(celery_setup, "found")
    worker.kill()
    worker.restart()
    assert answer.get(timeout=6 * LEASE) == "found"
    assert broker.llen("anthropic") == 0


def test_a_message_that_a_killed_worker_had_not_claimed_is_not_held_back(celery_setup: CeleryTestSetup) -> None:
    worker, broker = celery_setup.worker, celery_setup.broker.container.client
    results = celery_setup.backend.container.client
    broker.config_set("notify-keyspace-events", "Kh")
    taken = broker.pubsub(ignore_subscribe_messages=True)
    taken.subscribe("__keyspace@0__:unacked")
    assert taken.get_message(timeout=5) is None
    # The worker takes the message, and gets no answer when it claims the process.
    results.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    answer = _send(celery_setup, "done")
    assert taken.get_message(timeout=10) is not None
    worker.kill()
    results.execute_command("CLIENT", "UNPAUSE")
    assert broker.hlen("unacked") == 1
    worker.restart()
    assert answer.get(timeout=6 * LEASE) == "done"
