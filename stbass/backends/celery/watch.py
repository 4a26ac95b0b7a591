"""Learns that something was put into one of several lists, without taking it.

A blocking pop takes: an element may then be on its way to a program that is just dying. A blocking move waits for one
list only. So the server is asked to track (``CLIENT TRACKING``) the keys that this connection has looked at: it says so
once when one of them changes. Whoever hears it takes what is there, by a script.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
import redis

from stbass.transports.redis.connection import command

__all__ = ["ListWatch"]

_GREETING = command(b"HELLO", b"3") + command(b"CLIENT", b"TRACKING", b"ON")
_AWAY = ("LOADING", "BUSY ", "MASTERDOWN", "TRYAGAIN")


class ListWatch:
    """One connection's watch. It reads and writes the socket of a connection of redis-py that nobody else uses."""

    def __init__(self) -> None:
        self._socket: Any = None
        self._reader = hiredis.Reader()
        # What was asked and not answered: the words that say what an answer is.
        self._awaited: deque[str] = deque()
        self.asked_at: float | None = None
        """When the question was put that has not been answered; None: there is none."""
        self.heard_at = 0.0

    def look(self, connection: Any, keys: Sequence[str]) -> None:
        """Ask whether one of the lists has something in it, and to be told when one changes.

        Raises:
            OSError: the connection is lost.
        """
        text = b""
        if connection._sock is not self._socket:
            self._socket = connection._sock
            self._socket.settimeout(0)
            self._reader = hiredis.Reader()
            self._awaited = deque(("HELLO", "CLIENT TRACKING"))
            self.asked_at = None
            text = _GREETING
        self._awaited.append("EXISTS")
        if self.asked_at is None:
            self.asked_at = time.monotonic()
        self._socket.sendall(text + command(b"EXISTS", *[key.encode() for key in keys]))

    def read(self) -> bool:
        """Read all that has come; whether one of the lists may have something in it.

        Raises:
            OSError: the connection is lost.
            redis.ResponseError: the server refuses.
        """
        found = False
        while True:
            try:
                data = self._socket.recv(65536)
            except (BlockingIOError, InterruptedError):
                return found
            except OSError as error:
                if type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError"):
                    return found
                raise
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self.heard_at = time.monotonic()
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                found = self._understand(reply) or found

    def _understand(self, reply: Any) -> bool:
        if type(reply) is hiredis.PushNotification:
            return bool(reply[0] == b"invalidate")
        asked = self._awaited.popleft()
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            if text.startswith(_AWAY):
                raise ConnectionResetError(f"the server answered {text}")
            raise redis.ResponseError(f"{text} (the answer to {asked}, by which a worker waits for messages)")
        if asked != "EXISTS":
            return False
        if "EXISTS" not in self._awaited:
            self.asked_at = None
        return bool(reply)
