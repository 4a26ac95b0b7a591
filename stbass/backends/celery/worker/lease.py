"""Leases and checkpoints of running processes, kept by a thread of their own.

A thread, because a process that blocks the event loop must neither lose its lease nor delay a checkpoint.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from stbass.backends.celery import keys
from stbass.backends.celery.settings import FleetSettings

__all__ = ["Keeper", "Lease"]

_log = logging.getLogger(__name__)
_TOUCH_MOST = 5000
_RETRY = 0.5
"""Seconds between attempts to reach a server that does not answer; leases last longer."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a process: ``seconds`` long unless renewed; ``attempt`` tells it from an earlier one."""

    process_id: str
    attempt: int
    seconds: float
    tag: str = ""
    """kombu's delivery tag of the message."""


class Keeper:
    """Renews all leases of this Python process in one command, and writes checkpoints as they are made.

    Args:
        settings: of the fleet.
        on_lost: called in the keeper's thread with the ids whose lease somebody else has taken.
    """

    def __init__(self, settings: FleetSettings, on_lost: Callable[[list[str]], None]) -> None:
        self._settings = settings
        self._address = settings.backend
        self._on_lost = on_lost
        self._leases: dict[str, Lease] = {}
        self._checkpoints: dict[str, tuple[int, bytes]] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._renew_at = float("inf")
        self._thread: threading.Thread | None = None

    def hold(self, lease: Lease) -> None:
        """Keep a lease that was just granted until :meth:`release`."""
        with self._wake:
            self._leases[lease.process_id] = lease
            due = time.monotonic() + lease.seconds / 3
            if due < self._renew_at:
                self._renew_at = due
                self._wake.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stbass-leases", daemon=True)
                self._thread.start()

    def release(self, process_id: str) -> None:
        """The process ended: its lease is removed with the writing of its result."""
        with self._wake:
            self._leases.pop(process_id, None)

    def checkpoint(self, lease: Lease, value: bytes) -> None:
        """Write a checkpoint at once; of several that were not yet written the last one counts."""
        with self._wake:
            self._checkpoints[lease.process_id] = (lease.attempt, value)
            self._wake.notify()

    def close(self) -> None:
        """Write what is left and end the thread. Leases run out by themselves."""
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def _run(self) -> None:
        client = self._address.client()
        renew = client.register_script(keys.RENEW)
        write = client.register_script(keys.CHECKPOINT)
        broker = None
        if self._settings.broker is not None:
            broker = client if self._settings.one_server else self._settings.broker.client()
        touch = broker.register_script(keys.TOUCH) if broker is not None else None
        while True:
            with self._wake:
                while not (self._checkpoints or self._closed or self._due()):
                    wait = self._renew_at - time.monotonic()
                    self._wake.wait(None if wait == float("inf") else max(0.0, wait))
                if self._closed and not self._checkpoints:
                    break
                checkpoints, self._checkpoints = self._checkpoints, {}
                leases = list(self._leases.values()) if self._due() else []
                if self._due():
                    shortest = min((lease.seconds for lease in leases), default=None)
                    self._renew_at = float("inf") if shortest is None else time.monotonic() + shortest / 3
            try:
                self._send(renew, write, touch, leases, checkpoints)
            except redis.RedisError as error:
                _log.warning("leases and checkpoints cannot be written to %s: %s; trying again", self._address, error)
                with self._wake:
                    if self._closed:
                        break
                    for process_id, entry in checkpoints.items():
                        self._checkpoints.setdefault(process_id, entry)
                    if leases:
                        self._renew_at = time.monotonic()
                    # Not a notification: new work must not make us hammer a server that is down.
                    self._pause()
        client.close()
        if broker is not None:
            broker.close()

    def _pause(self) -> None:
        until = time.monotonic() + _RETRY
        while not self._closed and (left := until - time.monotonic()) > 0:
            self._wake.wait(left)

    def _due(self) -> bool:
        return time.monotonic() >= self._renew_at

    def _send(
        self,
        renew: Any,
        write: Any,
        touch: Any,
        leases: list[Lease],
        checkpoints: dict[str, tuple[int, bytes]],
    ) -> None:
        if checkpoints:
            write(args=[part for key, (attempt, value) in checkpoints.items() for part in (key, attempt, value)])
        if leases:
            args = [part for held in leases for part in (held.process_id, held.attempt, int(held.seconds * 1000))]
            lost = [raw.decode() for raw in renew(args=args)]
            # One that ended while the command was on its way is no loss.
            lost = [process_id for process_id in lost if process_id in self._leases]
            if lost:
                self._on_lost(lost)
            if touch is not None:
                index = f"{self._settings.broker_prefix}{self._settings.unacked[1]}"
                tags = [held.tag for held in leases if held.tag]
                for start in range(0, len(tags), _TOUCH_MOST):
                    touch(keys=[index], args=tags[start : start + _TOUCH_MOST])
