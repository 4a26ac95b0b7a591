"""Every transport passes the same checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from stbass.testing import check_transport
from stbass.testing.transports import TRANSPORT_CHECKS
from stbass.transports import MemoryTransport, Transport
from tests.conformance.hub import HubTransport, hub

MakeTransport = Callable[[], Transport]


@pytest.fixture(params=["memory", "hub"])
def make(request: pytest.FixtureRequest) -> Iterator[MakeTransport]:
    if request.param == "memory":
        yield MemoryTransport
    else:
        with hub() as port:
            yield lambda: HubTransport(port)


@pytest.mark.parametrize("name", TRANSPORT_CHECKS)
async def test_transport(make: MakeTransport, name: str) -> None:
    await check_transport(make, only=(name,))
