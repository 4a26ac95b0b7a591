"""Learns that something was put into one of several lists, and takes it by a script, on one connection.

A blocking pop takes: an element may then be on its way to a program that is just dying. A blocking move waits for one
list only. So the server is asked to track (``CLIENT TRACKING``) the keys that this connection has looked at: it says so
once when one of them changes. Whoever hears it takes what is there, by a script, which looks at the lists once more
when it is done: so nothing need be asked until they change again.
"""

from __future__ import annotations

import hashlib
import select
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
import redis

from stbass.transports.redis.connection import command

__all__ = ["ListWatch"]

_AWAY = ("LOADING", "BUSY ", "MASTERDOWN", "TRYAGAIN", "NOSCRIPT")
_AT_ONCE = 65536


class ListWatch:
    """One connection's watch. It reads and writes the socket of a connection of redis-py that nobody else uses.

    Args:
        script: that takes what is in the lists.
    """

    def __init__(self, script: str) -> None:
        text = script.encode()
        self._script = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        # What this connection changes itself is nothing that it has to be told.
        self._greeting = (
            ("HELLO", command(b"HELLO", b"3")),
            ("CLIENT TRACKING", command(b"CLIENT", b"TRACKING", b"ON", b"NOLOOP")),
            ("SCRIPT LOAD", command(b"SCRIPT", b"LOAD", text)),
        )
        self._socket: Any = None
        self._poll = select.poll()
        self._reader = hiredis.Reader()
        # What was asked and not answered: the words that say what an answer is.
        self._awaited: deque[str] = deque()
        self._found = False
        self._taken: Any = None
        self.asked_at: float | None = None
        """When the question was put that has not been answered; None: there is none."""

    def look(self, connection: Any, keys: Sequence[bytes]) -> None:
        """Ask whether one of the lists has something in it, and to be told when one changes.

        Raises:
            OSError: the connection is lost.
        """
        text = self._greet(connection) + command(b"EXISTS", *keys)
        self._awaited.append("EXISTS")
        if self.asked_at is None:
            self.asked_at = time.monotonic()
        self._socket.sendall(text)

    def read(self) -> bool:
        """Read all that has come; whether one of the lists may have something in it.

        Raises:
            OSError: the connection is lost.
            redis.ResponseError: the server refuses.
        """
        self._receive()
        found, self._found = self._found, False
        return found

    def take(self, connection: Any, keys: Sequence[bytes], args: Sequence[bytes], seconds: float) -> list[Any]:
        """What the script gives, but for its first part: whether there is more, as far as this connection knows.

        Raises:
            OSError: the connection is lost, or the answer has not come in so many seconds.
            redis.ResponseError: the server refuses.
        """
        text = self._greet(connection) + command(b"EVALSHA", self._script, b"%d" % len(keys), *keys, *args)
        self._awaited.append("EVALSHA")
        self._taken = None
        self._socket.sendall(text)
        until = time.monotonic() + seconds
        while self._taken is None:
            if not self._poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise TimeoutError(f"no answer for {seconds:g} s")
            self._receive()
        (is_more, found), self._taken = self._taken, None
        is_more, self._found = bool(is_more) or self._found, False
        return [is_more, found]

    def _greet(self, connection: Any) -> bytes:
        if connection._sock is self._socket:
            return b""
        self._socket = connection._sock
        self._socket.settimeout(0)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._reader = hiredis.Reader()
        self._awaited = deque(name for name, _ in self._greeting)
        self._found = False
        self.asked_at = None
        return b"".join([text for _, text in self._greeting])

    def _receive(self) -> None:
        while True:
            try:
                data = self._socket.recv(_AT_ONCE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError"):
                    return
                raise
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._understand(reply)
            # Of TLS a part may be here already, of which nobody would tell.
            if len(data) < _AT_ONCE and not getattr(self._socket, "pending", int)():
                return

    def _understand(self, reply: Any) -> None:
        if type(reply) is hiredis.PushNotification:
            self._found = self._found or reply[0] == b"invalidate"
            return
        asked = self._awaited.popleft()
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            # With an answer to the script still to come, who asked must ask again for that.
            if text.startswith(_AWAY) or "EVALSHA" in self._awaited:
                raise ConnectionResetError(f"the server answered {text}")
            raise redis.ResponseError(f"{text} (the answer to {asked}, by which a worker waits for messages)")
        if asked == "EVALSHA":
            # What was heard before is in it.
            self._taken, self._found = reply, False
        elif asked == "EXISTS":
            self._found = self._found or bool(reply)
            if "EXISTS" not in self._awaited:
                self.asked_at = None
