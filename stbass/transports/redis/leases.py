"""Leases in Redis, renewed by a thread of its own.

A thread, because what blocks the event loop must not cost a lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import redis

from stbass.transports.redis.address import RedisAddress
from stbass.transports.redis.trouble import Trouble, Vigil, trouble_of

__all__ = ["LeaseKeeper"]

_log = logging.getLogger(__name__)
_NEVER = float("inf")
_LONGEST = 5.0
"""Seconds between looks at most, however long the leases are: so soon it is noticed if the server has lost them."""

T = TypeVar("T")


class LeaseKeeper(Generic[T]):
    """Renews all leases that it holds in one command; in the same thread it writes what must not wait either.

    Args:
        address: of the server.
        what: what is renewed and written, for the log.
        renew: called in the thread with what is held; gives the keys of those whose lease somebody else has taken.
        on_lost: called in the thread with these keys; they are not held any more.
        write: called in the thread with what :meth:`write` was given.
        timeout: seconds after which a command that is not answered is given up.
    """

    def __init__(
        self,
        address: RedisAddress,
        what: str,
        renew: Callable[[redis.Redis, Sequence[T]], Sequence[str]],
        on_lost: Callable[[list[str]], None],
        *,
        write: Callable[[redis.Redis, Mapping[str, Any]], None] | None = None,
        timeout: float,
    ) -> None:
        self._address = address
        self._what = what
        self._renew = renew
        self._on_lost = on_lost
        self._write = write
        self._timeout = timeout
        self._held: dict[str, tuple[float, T]] = {}
        self._unwritten: dict[str, Any] = {}
        self._flushes: list[Future[None]] = []
        self._wake = threading.Condition()
        self._closed = False
        self._renew_at = _NEVER
        self._thread: threading.Thread | None = None

    def hold(self, key: str, seconds: float, lease: T, *, age: float = 0.0) -> None:
        """Keep a lease that was granted for so many seconds, ``age`` seconds ago, until :meth:`release`."""
        with self._wake:
            self._held[key] = (seconds, lease)
            due = time.monotonic() + min(_LONGEST, seconds / 3) - age
            if due < self._renew_at:
                self._renew_at = due
                self._wake.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stbass-leases", daemon=True)
                self._thread.start()

    def release(self, key: str) -> None:
        """Renew it no more."""
        with self._wake:
            self._held.pop(key, None)

    def write(self, key: str, value: Any) -> None:
        """Write something at once; of several of the same key that were not yet written, the last one."""
        with self._wake:
            self._unwritten[key] = value
            self._wake.notify()

    def flush(self) -> Future[None]:
        """Done when all that was to be written before this call is written, or was refused for good."""
        flushed: Future[None] = Future()
        with self._wake:
            self._flushes.append(flushed)
            self._wake.notify()
        return flushed

    def close(self, seconds: float = 5.0) -> None:
        """Write what is left and end the thread; leases run out by themselves.

        When this returns, nothing is on its way, unless the server has not answered for so many seconds.
        """
        with self._wake:
            self._closed = True
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def _run(self) -> None:
        client = self._address.client()
        options: dict[str, Any] = client.connection_pool.connection_kwargs
        options["socket_timeout"] = self._timeout
        vigil = Vigil(f"write {self._what}", self._address, _log)
        while True:
            with self._wake:
                while not (self._unwritten or self._flushes or self._closed or self._due()):
                    wait = self._renew_at - time.monotonic()
                    self._wake.wait(None if wait == _NEVER else max(0.0, wait))
                if self._closed and not self._unwritten:
                    break
                unwritten, self._unwritten = self._unwritten, {}
                flushes, self._flushes = self._flushes, []
                held = dict(self._held) if self._due() else {}
                if self._due():
                    shortest = min((seconds for seconds, _ in held.values()), default=_NEVER)
                    self._renew_at = time.monotonic() + min(_LONGEST, shortest / 3) if held else _NEVER
            try:
                self._send(client, held, unwritten)
                vigil.over()
            except Exception as error:
                pause = self._endured(client, held, unwritten, vigil, error)
                if pause is not None:
                    with self._wake:
                        if self._closed:
                            break
                        self._unwritten = {**unwritten, **self._unwritten}
                        self._flushes[:0] = flushes
                        if held:
                            self._renew_at = time.monotonic()
                        # Not a notification: new work must not make us hammer a server that is down.
                        shortest = min((seconds for seconds, _ in held.values()), default=_NEVER)
                        self._wake.wait_for(lambda: self._closed, min(pause, shortest / 6))
                    continue
            for flushed in flushes:
                if flushed.set_running_or_notify_cancel():
                    flushed.set_result(None)
        client.close()

    def _endured(
        self,
        client: redis.Redis,
        held: dict[str, tuple[float, T]],
        unwritten: dict[str, Any],
        vigil: Vigil,
        error: Exception,
    ) -> float | None:
        """What to do about an error: seconds until the next attempt, or None: what caused it was dealt with.

        An error that does not pass concerns one of many: each is tried alone, and only that one is given up.
        """
        try:
            return vigil.pause(error)
        except Exception:
            _log.debug("cannot write %s all at once", self._what, exc_info=True)
        parts: list[tuple[dict[str, tuple[float, T]], dict[str, Any]]] = [
            ({}, {key: value}) for key, value in unwritten.items()
        ]
        parts += [({key: lease}, {}) for key, lease in held.items()]
        for index, (lease, written) in enumerate(parts):
            try:
                self._send(client, lease, written)
            except Exception as failure:
                if trouble_of(failure) is not Trouble.NEVER:
                    rest = {key: value for _, later in parts[index:] for key, value in later.items()}
                    unwritten.clear()
                    unwritten.update(rest)
                    return vigil.pause(failure)
                [key] = lease or written
                _log.error("cannot write %s: Redis at %s refuses %s: %s", self._what, self._address, key, failure)
                if lease:
                    self.release(key)
                    self._on_lost([key])
        return None

    def _due(self) -> bool:
        return time.monotonic() >= self._renew_at

    def _send(self, client: redis.Redis, held: dict[str, tuple[float, T]], unwritten: dict[str, Any]) -> None:
        if unwritten and self._write is not None:
            self._write(client, unwritten)
        if not held:
            return
        lost = self._renew(client, [lease for _, lease in held.values()])
        with self._wake:
            # One that ended while the command was on its way is no loss.
            lost = [key for key in lost if self._held.get(key) is held[key]]
            for key in lost:
                del self._held[key]
        if lost:
            self._on_lost(lost)
