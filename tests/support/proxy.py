"""A TCP proxy that cuts or forgets connections when it is told to: for tests of what happens then."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

__all__ = ["CERTIFICATE", "Direction", "Proxy"]

CERTIFICATE = Path(__file__).with_name("tls") / "certificate.pem"
"""For 127.0.0.1 and localhost, signed by itself, good for a hundred years: nothing but the tests trusts it."""

Direction = Literal["to server", "to client"]


class Proxy:
    """Forwards to a server on loopback, chunk by chunk, and counts the chunks of all connections together.

    Args:
        port: of the server.
        cut_at: cut the connection that forwards the chunk of this number (from 1), in this direction.
        after: whether that chunk is still forwarded.
        change: applied to what the server says.
        before: awaited before that is handed on.
        tls: whether clients speak TLS to it, with the certificate in :data:`CERTIFICATE`.
        deaf: how many connections it accepts before the first that it does not forget at once.
    """

    def __init__(
        self,
        port: int,
        *,
        cut_at: tuple[Direction, int] | None = None,
        after: bool = False,
        change: Callable[[bytes], bytes] | None = None,
        before: Callable[[bytes], Awaitable[None]] | None = None,
        tls: bool = False,
        deaf: int = 0,
    ) -> None:
        self._server_port = port
        self._cut_at = cut_at
        self._after = after
        self._change = change
        self._before = before
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(CERTIFICATE, CERTIFICATE.with_name("key.pem"))
        self._tasks: set[asyncio.Task[None]] = set()
        self._pairs: dict[tuple[asyncio.StreamWriter, asyncio.StreamWriter], None] = {}
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.chunks: dict[Direction, int] = {"to server": 0, "to client": 0}
        self.cuts = 0
        self.deaf = deaf
        self.port = 0

    @property
    def url(self) -> str:
        """``redis://…`` through the proxy."""
        if self._tls is not None:
            return f"rediss://127.0.0.1:{self.port}/0?ssl_cert_reqs=required&ssl_ca_certs={CERTIFICATE}"
        return f"redis://127.0.0.1:{self.port}/0"

    def cut_all(self, which: Callable[[], bool] = lambda: True) -> None:
        """Cut every connection now, or those for which ``which`` says so, in the order in which they were made."""
        self.cuts += 1
        self._abort(pair for pair in self._pairs if which())

    @staticmethod
    def _abort(pairs: Iterable[tuple[asyncio.StreamWriter, asyncio.StreamWriter]]) -> None:
        for pair in list(pairs):
            for writer in pair:
                writer.transport.abort()

    def forget_all(self, which: Callable[[], bool] = lambda: True) -> None:
        """As a firewall does: what is sent on the connections of now arrives nowhere, and neither side is told."""
        self._forgotten.update(writer for pair in self._pairs if which() for writer in pair)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self._abort(self._pairs)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(from_client, to_client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            to_client.transport.abort()
            return
        pair = (to_client, to_server)
        self._pairs[pair] = None
        if self.deaf:
            self.deaf -= 1
            self._forgotten.update(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward("to server", from_client, to_server, pair))
                group.create_task(self._forward("to client", from_server, to_client, pair))
        finally:
            del self._pairs[pair]
            self._forgotten.difference_update(pair)

    async def _forward(
        self,
        direction: Direction,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while chunk := await source.read(65536):
                if target in self._forgotten:
                    continue
                self.chunks[direction] += 1
                cut = self._cut_at == (direction, self.chunks[direction])
                if self._change is not None and direction == "to client":
                    chunk = self._change(chunk)
                if self._before is not None and direction == "to client":
                    await self._before(chunk)
                if not cut or self._after:
                    target.write(chunk)
                    await target.drain()
                if cut:
                    self.cuts += 1
                    break
        except OSError:
            pass  # the other direction was cut
        finally:
            for writer in pair:
                if writer is target:
                    writer.close()  # what was forwarded still arrives
                else:
                    writer.transport.abort()
