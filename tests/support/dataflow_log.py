"""What components elsewhere tell a test, as they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path


class Log:
    """What components tell, as they do: a named pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self.lines: list[list[str]] = []
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)

    def read(self) -> list[list[str]]:
        """All lines that have come."""
        with contextlib.suppress(BlockingIOError):
            *whole, self._rest = (self._rest + os.read(self._pipe, 65536)).split(b"\n")
            self.lines += [line.decode().split() for line in whole]
        return self.lines

    async def until(self, what: str) -> list[str]:
        """The line that says this, when it is there."""
        loop, come = asyncio.get_running_loop(), asyncio.Event()
        while True:
            found = [line for line in self.read() if line[1] == what]
            if found:
                return found[0]
            come.clear()
            loop.add_reader(self._pipe, come.set)
            try:
                await come.wait()
            finally:
                loop.remove_reader(self._pipe)
