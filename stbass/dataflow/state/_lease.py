"""The lease of a job in Redis, renewed by a thread of its own.

A thread, because a component that blocks the event loop must not lose the job.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import redis

from stbass.transports.redis.address import RedisAddress

__all__ = ["LeaseKeeper"]

_log = logging.getLogger(__name__)
_RETRY = 0.5
"""Seconds between attempts to reach a server that does not answer; leases last longer."""

RENEW = """
-- Renew the lease of a job; one that has run out is taken again if nobody has had the job meanwhile.
-- KEYS: job, lease. ARGV: token, value, milliseconds. Gives 1; 0: the job is no longer that run's.
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
"""


class LeaseKeeper:
    """Renews a lease that was just granted, until :meth:`stop` or until another run has taken the job.

    Args:
        address: of the server.
        keys: of the job and of the lease.
        token: fence of the job.
        value: what the lease says.
        seconds: how long it lasts.
    """

    def __init__(self, address: RedisAddress, keys: tuple[str, str], token: int, value: str, seconds: float) -> None:
        self._address = address
        self._keys = keys
        self._args = (token, value, int(seconds * 1000))
        self._seconds = seconds
        self._wake = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="stbass-job-lease", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Renew it no more. When this returns, no renewal is on its way, unless the server does not answer."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join, 2 * self._seconds)

    def _run(self) -> None:
        client = self._address.client()
        # A renewal that is not answered for as long as that is of no use any more.
        options: dict[str, Any] = client.connection_pool.connection_kwargs
        options["socket_timeout"] = self._seconds
        renew = client.register_script(RENEW)
        pause, failing = self._seconds / 3, False
        while not self._wait(pause):
            try:
                kept = renew(keys=self._keys, args=self._args)
            except (redis.RedisError, OSError) as error:
                if not failing:
                    _log.warning("%s cannot be renewed at %s: %s; trying again", self._keys[1], self._address, error)
                pause, failing = min(_RETRY, self._seconds / 3), True
                continue
            if not kept:
                _log.error("%s at %s was lost: another run has the job, or it is gone", self._keys[1], self._address)
                break
            pause, failing = self._seconds / 3, False
        client.close()

    def _wait(self, seconds: float) -> bool:
        """Whether it was stopped before that time was over."""
        with self._wake:
            return self._wake.wait_for(lambda: self._stopped, seconds)
