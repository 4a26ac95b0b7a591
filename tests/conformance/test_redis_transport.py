"""The transport over Redis passes the same checks as the one in memory, also where everything is signed."""

from __future__ import annotations

import pytest

from stbass.testing import RedisServer, check_transport
from stbass.testing.transports import TRANSPORT_CHECKS
from stbass.transports.redis import RedisTransport
from tests.support.servers import on_every_server


@on_every_server
@pytest.mark.parametrize("name", TRANSPORT_CHECKS)
async def test_redis_transport(server: RedisServer, name: str) -> None:
    await check_transport(lambda: RedisTransport(server.url), only=(name,))


@pytest.mark.parametrize("name", ["values_in_order", "two_choices_meet_once", "accepted_values_outlive_the_close"])
async def test_signed(server: RedisServer, name: str) -> None:
    await check_transport(lambda: RedisTransport(server.url, signing_key=b"k" * 32), only=(name,))


async def test_ends_in_one_object_and_on_one_event_loop(server: RedisServer) -> None:
    """Both ends of a channel in one transport: as a program has it whose processes all run here."""
    transport = RedisTransport(server.url)

    def make() -> RedisTransport:
        return transport

    await check_transport(make, only=("values_in_order", "two_choices_meet_once", "random_cancellations"))
