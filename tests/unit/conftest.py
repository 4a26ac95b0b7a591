"""What holds a unit test to what it is: it starts no other process, and reaches nobody over a network."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# However slow the machine is at the moment.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.spawn", "os.system"}
REACHES = {"socket.bind", "socket.connect"}

# What the test that runs has done of that; None: no test runs. An audit hook stays for good, and may be called in any
# thread, where what it raises need not reach the test.
_done: list[str] | None = None


def _refuse(what: str) -> None:
    if _done is not None:
        _done.append(what)
        raise RuntimeError(f"{what} in a unit test: what needs a server or a subprocess belongs in tests/integration")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event in STARTS or (event in REACHES and args[0].family != socket.AF_UNIX):
        _refuse(event)


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that starts a process or uses a network, and says where it belongs."""
    global _done
    # What multiprocessing spawns raises no audit event.
    monkeypatch.setattr(BaseProcess, "start", lambda process: _refuse("multiprocessing.Process.start"))
    done: list[str] = []
    _done = done
    yield
    _done = None
    assert not done, f"{', '.join(sorted(set(done)))} in a unit test: that belongs in tests/integration"
