"""Messages of any size over a channel of bytes, in order, sent without waiting.

A channel of a fleet carries values up to a size; a group's part of a checkpoint may be larger. So a message goes in
pieces: each but the last begins with ``+``, the last with ``.``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from stbass.channel import Chan
from stbass.errors import ChannelClosedError, DataflowError, StbassError, WireError

__all__ = ["CAPACITY", "Line", "piece_size"]

CAPACITY = 64
"""Pieces that a line's channel accepts before somebody takes one."""

_LARGEST_PIECE = 2**20
_LARGEST_MESSAGE = 2**31
_MORE, _LAST = b"+", b"."


def piece_size(max_message_bytes: int) -> int:
    """How large pieces may be where the wire carries values of this many bytes."""
    # Bytes grow by a third on the wire, and something is put around them.
    return max(64, min(_LARGEST_PIECE, max_message_bytes // 2))


class Line:
    """One end of a line: that of the sender, or that of the reader.

    Args:
        channel: what carries it; used by nobody else.
        piece: how many bytes a piece has at most.
    """

    def __init__(self, channel: Chan[bytes], piece: int) -> None:
        self._channel = channel
        self._piece = piece
        self._waiting: deque[bytes] = deque()
        self._sending: asyncio.Task[None] | None = None
        self.broken: Exception | None = None
        """Why nothing more can be sent, once that is so."""

    def post(self, message: bytes) -> None:
        """Send a message when those before it are sent. What cannot be sent any more is dropped; see :attr:`broken`."""
        if self.broken is None:
            self._waiting.append(message)
            if self._sending is None or self._sending.done():
                self._sending = asyncio.get_running_loop().create_task(self._send(), name="stbass-line")

    async def flush(self) -> None:
        """Return when everything that was posted is where the other end finds it, or cannot be sent any more."""
        if self._sending is not None:
            await asyncio.wait((self._sending,))
        if self.broken is None:
            try:
                await self._channel.flush()
            except StbassError as error:
                self.broken = error

    async def _send(self) -> None:
        waiting, size = self._waiting, self._piece
        try:
            while waiting:
                message = waiting.popleft()
                for start in range(0, max(1, len(message)), size):
                    kind = _MORE if start + size < len(message) else _LAST
                    await self._channel.send(kind + message[start : start + size])
        except StbassError as error:
            # The reader is gone, or the server: who reads what comes back learns of it there.
            self.broken = error
            waiting.clear()

    async def messages(self) -> AsyncIterator[bytes]:
        """What comes, until the line is closed.

        Raises:
            StbassError: the server cannot be reached any more.
            WireError: something came that is no piece of a message.
        """
        pieces: list[bytes] = []
        size = 0
        while True:
            try:
                piece = await self._channel.recv()
            except ChannelClosedError:
                return
            kind, rest = piece[:1], piece[1:]
            size += len(rest)
            if kind not in (_MORE, _LAST) or size > _LARGEST_MESSAGE:
                raise WireError(f"channel {self._channel.name!r} brought what is no piece of a message")
            pieces.append(rest)
            if kind == _LAST:
                yield b"".join(pieces)
                pieces, size = [], 0

    def abandon(self) -> None:
        """Send nothing more, whatever is still posted."""
        if self.broken is None:
            self.broken = DataflowError(f"channel {self._channel.name!r} is not used any more")
        if self._sending is not None:
            self._sending.cancel()
        self._waiting.clear()
