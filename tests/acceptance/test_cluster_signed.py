"""A cluster whose messages and results are signed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from pytest_celery import CeleryTestSetup

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.envelope import ENVELOPE_HEADER, SIGNATURE_HEADER
from stbass.backends.celery.refusals import COUNTS
from stbass.errors import SignatureError
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy
from stbass.wire import Signer
from tests.acceptance.conftest import ClusterSetup, ClusterWorker
from tests.support.agents import Fail, Give, Unregistered
from tests.support.backends import registry_of
from tests.support.puppets import Puppet, Puppeteer
from tests.support.waiting import until

pytestmark = pytest.mark.acceptance

KEY = "a-key-for-the-acceptance-tests"
ANOTHER_KEY = "a-key-that-somebody-else-has"
SIGNED = Placement(endpoint="signed")


class SignedWorker(ClusterWorker):
    queue = "signed"
    variables = {"TEST_SIGNING_KEY": KEY}  # noqa: RUF012


class SignedSetup(ClusterSetup):
    signing_key = KEY


@pytest.fixture
def celery_setup_cls() -> type[ClusterSetup]:
    return SignedSetup


@pytest.fixture
def default_worker_container_cls() -> type[ClusterWorker]:
    return SignedWorker


def refusals(celery_setup: CeleryTestSetup) -> int:
    """How many messages the fleet has refused, as it counts them in Redis."""
    return sum(int(number) for number in celery_setup.backend.container.client.hvals(COUNTS))


async def test_who_has_the_key_is_served_and_others_are_refused(
    celery_setup: CeleryTestSetup, registry: BackendRegistry, puppeteer: Puppeteer
) -> None:
    composition = PLACED_PAR(
        (Give((1, {2})), SIGNED), (Fail("point"), SIGNED), on_failure=FailurePolicy.COLLECT, registry=registry
    )
    async with asyncio.timeout(10):
        good, failed = (await composition.run()).results
    assert good.value == (1, {2})
    assert isinstance(failed.failure.error, Unregistered)
    assert failed.failure.checkpoint == "point"

    for key in (None, ANOTHER_KEY):
        urls = (celery_setup.app.conf.broker_url, celery_setup.app.conf.result_backend)
        stranger = CeleryBackend(make_app("stranger", *urls, stbass_signing_key=key))
        theirs = registry_of(stranger)
        async with asyncio.timeout(10):
            refused = await PLACED_PAR((Puppet(puppeteer.port), SIGNED), registry=theirs).run()
        error = refused.failures[0].error
        assert isinstance(error, SignatureError)
        assert KEY not in str(error)
        await stranger.aclose()
        # The worker lives on, and does the next one.
        async with asyncio.timeout(10):
            assert (await PLACED_PAR((Give("next"), SIGNED), registry=registry).run()).value == ["next"]
    await until(lambda: refusals(celery_setup) == 2)
    assert celery_setup.worker.logs().count("refused a signature") == 1  # once per kind
    assert puppeteer.hands == []


Tamper = Callable[[dict[str, Any], dict[str, Any]], None]


def _change_arguments(message: dict[str, Any], original: dict[str, Any]) -> None:
    message["headers"][ENVELOPE_HEADER] = message["headers"][ENVELOPE_HEADER].replace("Puppet", "Puppeteer")


def _drop_signature(message: dict[str, Any], original: dict[str, Any]) -> None:
    del message["headers"][SIGNATURE_HEADER]


def _sign_with_another_key(message: dict[str, Any], original: dict[str, Any]) -> None:
    headers = message["headers"]
    signature = Signer(ANOTHER_KEY).sign("message", headers["id"], "signed", headers[ENVELOPE_HEADER])
    headers[SIGNATURE_HEADER] = signature


def _replay_another(message: dict[str, Any], original: dict[str, Any]) -> None:
    for header in (ENVELOPE_HEADER, SIGNATURE_HEADER):
        message["headers"][header] = original["headers"][header]


def _replay_another_with_its_id_in_it(message: dict[str, Any], original: dict[str, Any]) -> None:
    text = original["headers"][ENVELOPE_HEADER].replace(original["headers"]["id"], message["headers"]["id"])
    message["headers"][ENVELOPE_HEADER] = text
    message["headers"][SIGNATURE_HEADER] = original["headers"][SIGNATURE_HEADER]


def _move_to_another_queue(message: dict[str, Any], original: dict[str, Any]) -> None:
    message["properties"]["delivery_info"]["routing_key"] = "signed"


TAMPERS: dict[str, Tamper] = {
    "altered": _change_arguments,
    "unsigned": _drop_signature,
    "wrong key": _sign_with_another_key,
    "replayed": _replay_another,
    "replayed and altered": _replay_another_with_its_id_in_it,
    "for another queue": _move_to_another_queue,
}


async def test_what_is_altered_on_the_way_is_refused_and_the_caller_told(
    celery_setup: CeleryTestSetup, backend: CeleryBackend, puppeteer: Puppeteer
) -> None:
    # While the worker is down, somebody who can write to the broker takes the messages, and gives others back.
    worker, broker = celery_setup.worker, celery_setup.broker.container.client
    worker.kill()
    assert worker.container.status == "exited"
    waiting = {}
    for name in ("original", *TAMPERS):
        placement = Placement(endpoint="caught") if name == "for another queue" else SIGNED
        ctx = ProcessContext(name, f"id-of {name}", placement=placement)
        waiting[name] = asyncio.create_task(backend.execute(Puppet(puppeteer.port), ctx))
    async with asyncio.timeout(30):
        messages: dict[str, dict[str, Any]] = {}
        for _ in waiting:
            _, raw = await asyncio.to_thread(broker.brpop, ["signed", "caught"], 10)
            message = json.loads(raw)
            messages[message["headers"]["shadow"]] = message
        original = messages["original"]
        for name, tamper in TAMPERS.items():
            before = json.dumps(messages[name])
            tamper(messages[name], original)
            assert json.dumps(messages[name]) != before
        broker.lpush("signed", *(json.dumps(message) for message in messages.values()))
        await asyncio.to_thread(worker.restart)

        for name in TAMPERS:
            refused = await waiting[name]
            assert isinstance(refused.failure.error, SignatureError), name
        # The worker has lived on, and runs what nobody has touched, as often as it was sent.
        (await puppeteer.named("original")).order("return", "done")
        assert (await waiting["original"]).value == "done"

        # The untouched message once more: it is done, so it is dropped. The queue is in order.
        broker.lpush("signed", json.dumps(original))
        assert (await backend.execute(Give("next"), ProcessContext("give", placement=SIGNED))).value == "next"
    assert len(puppeteer.hands) == 1
    await until(lambda: refusals(celery_setup) == len(TAMPERS))
    assert worker.logs().count("refused a signature") == 1  # once per kind
